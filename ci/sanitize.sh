#!/usr/bin/env bash
# Runs the tests with AddressSanitizer and with ThreadSanitizer, and prints a table: program, how
# many tests passed. Exits with 1 if one failed. What they print is in target/sanitize/NAME/PROGRAM.txt.
#
#   ci/sanitize.sh                          both
#   ci/sanitize.sh address|thread [PROGRAM...]
#
# Needs a nightly toolchain. Left out of both is what starts the compiler, or takes every instruction
# for itself: compile_fail, declared, kill.
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
left_out=' compile_fail declared kill '

case $name in
address)
    flags=-Zsanitizer=address
    ;;
thread)
    flags="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer"
    ;;
*) sed -n '2,/^set/s/^# \?//p' "$0" >&2; exit 2 ;;
esac

targets=(--lib)
for program in tests/*.rs; do
    program=$(basename "$program" .rs)
    case $left_out in *" $program "*) ;; *) targets+=(--test "$program") ;; esac
done
targets+=(--test one_kill)
mkdir -p "$folder/$name"
export CARGO_TARGET_DIR=$folder/$name/build CARGO_PROFILE_DEV_DEBUG=1 CARGO_INCREMENTAL=0
RUSTFLAGS=$flags cargo +nightly test --locked --all-features --target "$host" -p crossproc -p crossproc-sys "${targets[@]}" --no-run 2>&1 |
    tee "$folder/$name/build.txt" | grep -v '^ *Executable' || true
grep -q Finished "$folder/$name/build.txt"
RUSTFLAGS=$flags cargo +nightly build --quiet --locked --all-features --target "$host" --examples

# Each program, and where it is.
programs() {
    sed -n 's/^ *Executable unittests src\/lib\.rs (\(.*\/crossproc_sys-.*\))$/sys \1/p
        s/^ *Executable unittests src\/lib\.rs (\(.*\/crossproc-.*\))$/lib \1/p
        s/^ *Executable tests\/\([a-z0-9_]*\)\(\.rs\|\/main\.rs\) (\(.*\))$/\1 \3/p' "$folder/$name/build.txt"
}
printf '%-24s %8s %8s %8s %8s\n' "$name" passed failed ignored seconds
failed=
while read -r program file; do
    case $only in '  ' | *" $program "*) ;; *) continue ;; esac
    began=$SECONDS
    code=0
    (
        [ "$program" = sys ] && cd sys
        export CARGO_MANIFEST_DIR=$PWD
        exec timeout 300 "$file"
    ) >"$folder/$name/$program.txt" 2>&1 </dev/null || code=$?
    counts=$(sed -n 's/^test result: .*\. \([0-9]*\) passed; \([0-9]*\) failed; \([0-9]*\) ignored.*/\1 \2 \3/p' "$folder/$name/$program.txt" | tail -n 1)
    printf '%-24s %8s %8s %8s %8s' "$program" ${counts:-- - -} $((SECONDS - began))
    if [ $code = 0 ]; then echo; else
        failed+=" $program"
        printf '  exit status %s\n' $code
    fi
done < <(programs)
[ -z "$failed" ] || { printf 'failed:%s\n' "$failed"; exit 1; }
