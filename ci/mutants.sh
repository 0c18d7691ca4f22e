#!/usr/bin/env bash
# Breaks the code on purpose, one line of a list at a time, in a copy of the tree, and runs what
# must notice. Every mutant must be caught, but for those that are known to survive, whose names end
# in the reason in parentheses; each list says what its reasons mean.
#
#   ci/mutants.sh loom|explore|kill|test|thread [NAME]
#                           the rows of one list, or those with this in their names
#   ci/mutants.sh --rest    all rows of all lists that have no result yet; takes hours
#   ci/mutants.sh --report  prints a table of all results
#   ci/mutants.sh --write   writes all results to ci/mutants-results.tsv
#   ci/mutants.sh --clean   forgets them all
#
# Lists: ci/mutants.txt (`loom`) is for the loom models, ci/mutants-explore.txt for the
# explorations, ci/mutants-kill.txt for the kill harness, ci/mutants-test.txt for integration tests,
# and ci/mutants-thread.txt for tests under ThreadSanitizer, which needs a nightly toolchain. The
# last two must pass with the code as it is in the same surroundings, too. JOBS=N runs so many rows
# at a time; what measures time may fail then for that alone. Results are kept in target/mutants
# with the commit that they are of, until they are written: all rows take longer than a tree lasts.
# A row that is changed has no result any more.
set -euo pipefail
cd "$(dirname "$0")/.."
source=$PWD
host=$(rustc -vV | sed -n 's/^host: //p')
kept=$source/target/mutants
results=$kept/results.tsv
written=$source/ci/mutants-results.tsv
lists=(loom explore kill test thread)
known=' \((4|old|slice|bound|model|pair|kill|test|explore|thread|again|promise)\)$'

list() { case $1 in loom) echo ci/mutants.txt ;; *) echo "ci/mutants-$1.txt" ;; esac; }

# Prints the rows of a list: name, file, substitution, filter. What has no file is no mutant: the
# code as it is.
rows() {
    case $1 in
    test | thread)
        awk -F '\t' '
            !/^#/ && NF && !seen[$4]++ { print "unbroken: " $4 "\t\t\t" $4 }' "$(list "$1")"
        ;;
    esac
    awk -F '\t' '!/^#/ && NF' "$(list "$1")"
}

# LIST ROW: what the row's result is kept under. A row that is changed has none.
key() { printf '%s\t%s' "$1" "$2" | sha256sum | cut -c 1-16; }

# LIST WORKER: where such a worker builds for the list. The first one's is kept, and copied for the
# others before they begin.
target() {
    case $1 in
    explore) target loom "$2" ;;
    *)
        local worker=-$2
        echo "$source/target/mutants-$1${worker#-0}"
        ;;
    esac
}

# LIST FILTER: what must notice, in the copy.
check() {
    export CARGO_PROFILE_TEST_DEBUG=0 CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_RELEASE_DEBUG=0
    export CARGO_INCREMENTAL=1 CARGO_TARGET_DIR=$target RUST_BACKTRACE=0
    case $1 in
    loom | explore) export RUSTFLAGS="--cfg crossproc_loom" ;;
    esac
    case $1 in
    loom)
        exec timeout 400 cargo --config profile.release.package.crossproc.opt-level=1 \
            test --release --test loom "$2"
        ;;
    explore) exec timeout 400 cargo test --release --test explore "$2" ;;
    kill) exec timeout 200 cargo test --release --test kill -- --sample --fail-fast "$2" ;;
    test) exec timeout 200 cargo test --all-features --test "$2" ;;
    thread)
        export RUSTFLAGS="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer"
        export TSAN_OPTIONS=suppressions=$source/ci/sanitize-races.txt:detect_deadlocks=0
        exec timeout 400 cargo +nightly test --all-features --target "$host" --test "$2" -- \
            --test-threads=1 --nocapture
        ;;
    esac
}

# LIST: what such a check prints when it notices. For loom: a deadlock that is found in one thread's
# destructors aborts the whole. For a test: a process that is ended, or a test that does not end.
failure() {
    case $1 in
    loom) echo '\.\.\. FAILED$|signal: 6' ;;
    explore) echo '\.\.\. FAILED$' ;;
    kill) echo '^VIOLATION' ;;
    test) echo '\.\.\. FAILED$|^VIOLATION|signal: |has been running for over' ;;
    thread) echo '^WARNING: ThreadSanitizer: ' ;;
    esac
}

# LIST NAME FILE SUBSTITUTION FILTER: prints what came of it, and what noticed.
mutant() {
    local log=$copy/log failure pid code=0 file unchanged=1
    failure=$(failure "$1")
    # More than one file, if the name has spaces.
    for file in $3; do
        perl -0pe "$4" "$source/$file" >"$copy/$file"
        cmp -s "$source/$file" "$copy/$file" || unchanged=0
    done
    if [ -n "$3" ] && [ $unchanged = 1 ]; then
        echo 'NO MATCH'
        return
    fi
    # Until the first failure, or to its end.
    : >"$log"
    (cd "$copy" && check "$1" "$5") >"$log" 2>&1 &
    pid=$!
    while kill -0 $pid 2>/dev/null && ! grep -qE "$failure" "$log"; do
        sleep 0.2
    done
    kill $pid 2>/dev/null || true
    wait $pid || code=$?
    if grep -q 'could not compile' "$log"; then
        echo 'NO BUILD'
    elif [ -z "$3" ]; then
        if [ $code = 0 ]; then
            echo passed
        else
            echo "BROKEN	$(grep -m1 -E "$failure" "$log" || true)"
        fi
    elif noticed=$(grep -m1 -E "$failure" "$log"); then
        echo "caught	${noticed:0:160}"
    elif [[ $2 =~ $known ]]; then
        echo survived
    elif [ $code = 124 ]; then
        echo LATE
    else
        echo SURVIVED
    fi
    for file in $3; do
        cp "$source/$file" "$copy/$file"
    done
}

# LIST WORKER: sets `copy` to such a worker's tree for the list, and makes it.
set_copy() {
    copy=$kept/copies/$2
    [ "$1" != thread ] || copy+=-thread
    [ ! -e "$copy" ] || return 0
    mkdir -p "$copy"
    cp -r Cargo.toml Cargo.lock README.md docs src sys tests benches examples ci "$copy"
    # As in ci/sanitize.sh, which says why.
    [ "$1" != thread ] ||
        sed -i 's/^const ROUNDS: u32 = 4;$/const ROUNDS: u32 = 2;/' "$copy/sys/src/robust/ending.rs"
}

# WORKER: takes one row after the other from what is to do.
worker() {
    local index=0 list name file substitution filter result noticed began
    while IFS=$'\t' read -r list row; do
        index=$((index + 1))
        mkdir "$kept/claimed/$index" 2>/dev/null || continue
        # Tabs side by side would be read as one.
        IFS=$'\x1f' read -r name file substitution filter <<<"${row//$'\t'/$'\x1f'}"
        set_copy "$list" "$1"
        target=$(target "$list" "$1")
        began=$SECONDS
        IFS=$'\t' read -r result noticed \
            <<<"$(mutant "$list" "$name" "$file" "$substitution" "$filter")"
        printf '%-8s  %s: %s%s\n' "$result" "$list" "$name" "${noticed:+: $noticed}"
        printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$(key "$list" "$row")" "$list" "$result" "$name" \
            "$noticed" "$((SECONDS - began))" "$commit" >>"$results"
    done <"$kept/todo"
}

# Prints the last result of each row that there is, in the order of the lists.
latest() {
    local list row
    for list in "${lists[@]}"; do
        while IFS= read -r row; do
            printf '%s\t%s\t%s\n' "$(key "$list" "$row")" "$list" "${row%%$'\t'*}"
        done < <(rows "$list")
    done | awk -F '\t' '
        BEGIN { OFS = FS }
        FILENAME != "-" { is[$1] = $3; noticed[$1] = $5; took[$1] = $6; at[$1] = $7; next }
        { print $1, $2, is[$1], $3, noticed[$1], took[$1], at[$1] }' "$written" "$results" -
}

# Prints how many rows have which result, and fails if a mutant was not caught, or has no result.
report() {
    latest | awk -F '\t' '
        !($2 in all) { lists[++count] = $2 }
        { all[$2]++ }
        $3 == "caught" || $3 == "passed" { caught[$2]++; next }
        $3 == "survived" { survived[$2]++; next }
        { missing++; print ($3 == "" ? "not run " : $3) "  " $2 ": " $4 >"/dev/stderr" }
        $3 == "" { none[$2]++; next }
        { bad[$2]++ }
        END {
            print "| list | rows | caught | known to survive | not caught | not run |"
            print "|---|---|---|---|---|---|"
            for (i = 1; i <= count; i++) {
                list = lists[i]
                printf "| %s | %d | %d | %d | %d | %d |\n", list, all[list], caught[list],
                    survived[list], bad[list], none[list]
            }
            exit missing > 0
        }'
}

mkdir -p "$kept"
touch "$results" "$written"
case ${1:-} in
loom | explore | kill | test | thread) chosen=("$1") only=${2:-} ;;
--rest) chosen=("${lists[@]}") only= ;;
--report) report; exit ;;
--write) latest | awk -F '\t' '$3 != ""' >"$kept/written"; mv "$kept/written" "$written"; exit ;;
--clean) rm -f "$results" "$written"; exit ;;
*) sed -n '2,/^set/s/^# \?//p' "$0" >&2; exit 2 ;;
esac
commit=$(git describe --always --dirty 2>/dev/null || echo unknown)
rm -rf "$kept/copies" "$kept/claimed"
mkdir -p "$kept/claimed"
for list in "${chosen[@]}"; do
    while IFS= read -r row; do
        [[ ${row%%$'\t'*} == *"$only"* ]] || continue
        [ "$1" != --rest ] || ! grep -q "^$(key "$list" "$row")	" "$written" "$results" || continue
        printf '%s\t%s\n' "$list" "$row"
    done < <(rows "$list")
done >"$kept/todo"
[ -s "$kept/todo" ] || { echo "no row to run"; exit 1; }
before=$(wc -l <"$results")
for ((job = 1; job < ${JOBS:-1}; job++)); do
    for list in $(cut -f 1 "$kept/todo" | sort -u); do
        [ -e "$(target "$list" "$job")" ] || [ ! -e "$(target "$list" 0)" ] ||
            cp -r "$(target "$list" 0)" "$(target "$list" "$job")"
    done
done
for ((job = 1; job < ${JOBS:-1}; job++)); do worker "$job" & done
worker 0
wait
awk -F '\t' -v before="$before" '
    NR > before { if ($3 ~ /^(caught|passed|survived)$/) good++; else bad++ }
    END { printf "%d as they should be, %d not\n", good, bad; exit bad > 0 }' "$results"
