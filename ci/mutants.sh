#!/usr/bin/env bash
# Breaks the state machines, one line of a list at a time, in a copy of the tree, and runs what must notice: the loom models on ci/mutants.txt (`loom`, the default), the kill
# harness on ci/mutants-kill.txt (`kill`), the explorations on ci/mutants-explore.txt (`explore`), integration tests on ci/mutants-test.txt (`test`). Every mutant must be caught, but for those that are known to survive, whose names end in the reason in parentheses.
# A second argument: only mutants whose name contains it. It takes a while, so it is for whoever changes a state machine or a test of it, not for every commit.
set -euo pipefail
cd "$(dirname "$0")/.."
by=${1:-loom}
only=${2:-}
copy=$PWD/target/mutants
rm -rf "$copy"
mkdir -p "$copy"
cp -r Cargo.toml Cargo.lock src sys tests benches examples ci "$copy"
survivors=0 caught=0

case $by in
loom)
    list=ci/mutants.txt
    # A deadlock found in one thread's destructors aborts the whole.
    failure='\.\.\. FAILED$|signal: 6'
    check() {
        CARGO_TARGET_DIR="$OLDPWD/target/mutants-loom" RUSTFLAGS="--cfg crossproc_loom" RUST_BACKTRACE=0 CARGO_INCREMENTAL=1 CARGO_PROFILE_RELEASE_DEBUG=0 \
            exec timeout 400 cargo --config profile.release.package.crossproc.opt-level=1 test --release --test loom "$1"
    }
    ;;
explore)
    list=ci/mutants-explore.txt
    failure='\.\.\. FAILED$'
    check() {
        CARGO_TARGET_DIR="$OLDPWD/target/mutants-loom" RUSTFLAGS="--cfg crossproc_loom" RUST_BACKTRACE=0 CARGO_INCREMENTAL=1 CARGO_PROFILE_RELEASE_DEBUG=0 \
            exec timeout 400 cargo test --release --test explore "$1"
    }
    ;;
kill)
    list=ci/mutants-kill.txt
    failure='^VIOLATION'
    check() {
        CARGO_TARGET_DIR="$OLDPWD/target/mutants-kill" CARGO_INCREMENTAL=1 exec timeout 200 cargo test --release --test kill -- --sample --fail-fast "$1"
    }
    ;;
test)
    list=ci/mutants-test.txt
    # A process that is ended, or a test that does not end.
    failure='\.\.\. FAILED$|^VIOLATION|signal: |has been running for over'
    check() {
        CARGO_TARGET_DIR="$OLDPWD/target/mutants-test" CARGO_INCREMENTAL=1 CARGO_PROFILE_TEST_DEBUG=0 CARGO_PROFILE_DEV_DEBUG=0 exec timeout 200 cargo test --all-features --test "$1"
    }
    ;;
*)
    echo "usage: ci/mutants.sh [loom|explore|kill|test] [NAME]" >&2
    exit 2
    ;;
esac

# Runs the check until the first failure, or to its end.
run() {
    (cd "$copy" && check "$1") >"$copy/log" 2>&1 &
    while kill -0 $! 2>/dev/null && ! grep -qE "$failure" "$copy/log"; do
        sleep 0.2
    done
    kill $! 2>/dev/null || true
    wait $! || true
}

while IFS=$'\t' read -r name file substitution filter; do
    case $name in '#'* | '') continue ;; *"$only"*) ;; *) continue ;; esac
    cp "$file" "$copy/$file"
    perl -0pi -e "$substitution" "$copy/$file"
    if cmp -s "$file" "$copy/$file"; then
        printf 'NO MATCH  %s\n' "$name"
        survivors=$((survivors + 1))
        continue
    fi
    run "$filter"
    if grep -q 'could not compile' "$copy/log"; then
        printf 'NO BUILD  %s\n' "$name"
        survivors=$((survivors + 1))
    elif noticed=$(grep -m1 -E "$failure" "$copy/log"); then
        printf 'caught    %s: %s\n' "$name" "${noticed:0:160}"
        caught=$((caught + 1))
    elif [[ $name =~ ' ('(4|old|slice|bound|model|pair|kill|test)')'$ ]]; then
        printf 'survived  %s, as is known\n' "$name"
    else
        printf 'SURVIVED  %s\n' "$name"
        survivors=$((survivors + 1))
    fi
    cp "$file" "$copy/$file"
done <"$list"
printf '%s caught, %s not\n' "$caught" "$survivors"
[ "$survivors" = 0 ]
