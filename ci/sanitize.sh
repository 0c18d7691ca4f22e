#!/usr/bin/env bash
# Runs the tests with AddressSanitizer and with ThreadSanitizer, and prints a table: program, how
# many tests passed. Exits with 1 if one failed. What they print is in
# target/sanitize/NAME/PROGRAM.txt.
#
#   ci/sanitize.sh                          both
#   ci/sanitize.sh address|thread [PROGRAM...]
#
# Needs a nightly toolchain. Left out of both is what starts the compiler, takes every instruction
# for itself, makes any system call fail, or is a model: declared, kill, faults, loom,
# explore.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$PWD/target/sanitize
host=$(rustc -vV | sed -n 's/^host: //p')
if [ $# = 0 ]; then
    failed=0
    for name in address thread; do bash "$0" $name || failed=1; done
    exit $failed
fi
name=$1 only=" ${*:2} "
left_out=' declared explore faults kill loom '

# What the sanitizers are told to pass over, and tests that are left out, each with its reason.
case $name in
address)
    flags=-Zsanitizer=address
    # These tests leak on purpose; participants of the model that die do.
    suppressions='leak:driver::tests::driver
leak:driver::tests::Nuisance
leak:an_event_that_is_set_and_cleared_at_once_is_seen_by_all
leak:queue_model'
    export LSAN_OPTIONS=suppressions=$folder/suppressions.txt:print_suppressions=0
    skipped=(
        # They look at the memory and the system calls of a process: the sanitizer's, too.
        endurance:
        no_system_calls:a_million_items_make_no_system_call
        no_system_calls:a_million_uncontended_operations_make_no_system_call
        # It ends a thread behind libc's back; the sanitizer takes the next one in its place for it.
        leaked_guards:a_thread_that_ends_without_libc_is_not_taken_for_the_next
    )
    arguments=()
    ;;
thread)
    flags="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer"
    suppressions=$(cat ci/sanitize-races.txt)
    TSAN_OPTIONS=suppressions=$folder/suppressions.txt:print_suppressions=0
    export TSAN_OPTIONS+=:die_after_fork=0:detect_deadlocks=0:report_signal_unsafe=0
    skipped=(
        # They look at the memory and the system calls of a process: the sanitizer's, too.
        endurance:
        no_system_calls:a_million_items_make_no_system_call
        no_system_calls:a_million_uncontended_operations_make_no_system_call
        # A stranger that writes anything anywhere, without regard for anybody.
        queue_hostile:
        # They pass what they have through std's channels and mutexes; so does tokio.
        queue_model:
        tokio:
        tokio_many:
        # They are about the rounds of destructors, of which the copy has fewer.
        leaked_guards:
        # It ends by a handler in the middle of a system call; the sanitizer has handlers run later.
        process_printed:a_child_whose_own_thread_left_the_standard_output_locked_ends
        # It waits until a thread sleeps on a mutex: the one that the sanitizer sees spins.
        fork_connected:a_child_that_is_forked_while_an_end_is_closed_does_not_keep_it
        # Its program has no PATH, so the sanitizer finds no names to suppress.
        process_exec:what_is_shared_before_its_name_is_removed_is_an_error_that_says_so
    )
    # Tests side by side would pass more through the standard library.
    arguments=(--test-threads=1)
    ;;
*) sed -n '2,/^set/s/^# \?//p' "$0" >&2; exit 2 ;;
esac
mkdir -p "$folder/$name"
echo "$suppressions" >"$folder/suppressions.txt"

# In a copy, for the sanitizer of threads: a mutex that it sees, in the place of std's. And it ends
# a thread when the fourth round of destructors begins. The crate's last look at what a thread holds
# is in that round, too: there it is earlier.
if [ $name = thread ]; then
    copy=$folder/$name/copy
    rm -rf "$copy"
    mkdir "$copy"
    git ls-files -z --cached --others --exclude-standard | tar --null -T - -c | tar -x -C "$copy"
    cd "$copy"
    sed -i 's/^const ROUNDS: u32 = 4;$/const ROUNDS: u32 = 2;/' sys/src/robust/ending.rs
    grep -q 'ROUNDS: u32 = 2' sys/src/robust/ending.rs
    for crate in src sys/src; do
        cp ci/sanitize-mutex.rs $crate/sanitized.rs
        echo 'mod sanitized;' >>$crate/lib.rs
    done
    find src sys/src -name '*.rs' ! -path '*/model/*' ! -path '*/tests/*' -exec perl -0pi -e '
        s/^use std::sync::(Mutex\w*);/use crate::sanitized::$1;/gm;
        s/^use std::sync::\{([^}]*)\};/my @names = split m{, }, $1;
            my @of = grep { m{^Mutex} } @names;
            "use std::sync::{" . join(", ", grep { !m{^Mutex} } @names) . "};\n"
            . (@of ? "use crate::sanitized::{" . join(", ", @of) . "};" : "")/gme' {} +
    if grep -rn 'use std::sync::.*Mutex' src sys/src --include='*.rs' |
        grep -v 'tests/\|model/'; then
        echo "a mutex that the sanitizer does not see" >&2
        exit 1
    fi
fi

# The bounds of time are of a program without a sanitizer.
export CROSSPROC_PATIENCE=150 CROSSPROC_SLOWNESS=4

targets=(--lib)
for program in tests/*.rs tests/*/main.rs; do
    program=$(basename "${program%/main.rs}" .rs)
    case $left_out in *" $program "*) ;; *) targets+=(--test "$program") ;; esac
done
targets+=(--test wordcount)
export CARGO_TARGET_DIR=$folder/$name/build CARGO_PROFILE_DEV_DEBUG=1 CARGO_INCREMENTAL=0
RUSTFLAGS=$flags cargo +nightly test --locked --all-features --target "$host" \
    -p crossproc -p crossproc-sys -p wordcount "${targets[@]}" --no-run 2>&1 |
    tee "$folder/$name/build.txt" | grep -v '^ *Executable' || true
grep -q Finished "$folder/$name/build.txt"
RUSTFLAGS=$flags cargo +nightly build --quiet --locked --all-features --target "$host" --examples

# Each program, and where it is.
programs() { bash ci/programs.sh "$folder/$name/build.txt"; }
printf '%-24s %8s %8s %8s %8s\n' "$name" passed failed ignored seconds
failed=
while read -r program file; do
    case $only in '  ' | *" $program "*) ;; *) continue ;; esac
    without=()
    for test in "${skipped[@]}"; do
        [ "${test%%:*}" != "$program" ] || without+=(--skip "${test#*:}")
    done
    # All of it.
    [ "${without[*]}" != '--skip ' ] || continue
    began=$SECONDS
    code=0
    # cargo tells it from here.
    file=$(realpath "$file")
    (
        [ "$program" = sys ] && cd sys
        export CARGO_MANIFEST_DIR=$PWD
        exec timeout 500 "$file" --nocapture "${arguments[@]}" "${without[@]}"
    ) >"$folder/$name/$program.txt" 2>&1 </dev/null || code=$?
    counts=$(sed -nE \
        's/^test result: .*\. ([0-9]+) passed; ([0-9]+) failed; ([0-9]+) ignored.*/\1 \2 \3/p' \
        "$folder/$name/$program.txt" | tail -n 1)
    printf '%-24s %8s %8s %8s %8s' "$program" ${counts:-- - -} $((SECONDS - began))
    if [ $code = 0 ]; then echo; else
        failed+=" $program"
        printf '  exit status %s\n' $code
    fi
done < <(programs)
[ -z "$failed" ] || { printf 'failed:%s\n' "$failed"; exit 1; }
