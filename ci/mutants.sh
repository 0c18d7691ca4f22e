#!/usr/bin/env bash
# Breaks the state machines, one line of ci/mutants.txt at a time, in a copy of the tree, and runs the loom models on each: every one must fail,
# but for those that are known to need more threads.
# With an argument: only those whose name contains it. It takes a while, so it is for whoever changes a state machine or a model, not for every commit.
set -euo pipefail
cd "$(dirname "$0")/.."
copy=$PWD/target/mutants
rm -rf "$copy"
mkdir -p "$copy"
cp -r Cargo.toml Cargo.lock src sys tests benches examples ci "$copy"
survivors=0 caught=0

# Runs the models until the first one fails, or all are done.
run() {
    (cd "$copy" && CARGO_TARGET_DIR="$OLDPWD/target/loom" RUSTFLAGS="--cfg crossproc_loom" RUST_BACKTRACE=0 \
        exec timeout 400 cargo test --release --test loom "$1") >"$copy/log" 2>&1 &
    while kill -0 $! 2>/dev/null && ! grep -q '\.\.\. FAILED$' "$copy/log"; do
        sleep 0.2
    done
    kill $! 2>/dev/null || true
    wait $! || true
}

while IFS=$'\t' read -r name file substitution models; do
    case $name in '#'* | '') continue ;; *"${1:-}"*) ;; *) continue ;; esac
    cp "$file" "$copy/$file"
    perl -0pi -e "$substitution" "$copy/$file"
    if cmp -s "$file" "$copy/$file"; then
        printf 'NO MATCH  %s\n' "$name"
        survivors=$((survivors + 1))
        continue
    fi
    run "$models"
    if grep -q 'could not compile' "$copy/log"; then
        printf 'NO BUILD  %s\n' "$name"
        survivors=$((survivors + 1))
    elif failed=$(sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$copy/log" | head -1) && [ -n "$failed" ]; then
        printf 'caught    %s: by %s\n' "$name" "$failed"
        caught=$((caught + 1))
    elif [[ $name == *' (4)' ]]; then
        printf 'survived  %s, as is known\n' "$name"
    else
        printf 'SURVIVED  %s\n' "$name"
        survivors=$((survivors + 1))
    fi
    cp "$file" "$copy/$file"
done <ci/mutants.txt
printf '%s caught, %s not\n' "$caught" "$survivors"
[ "$survivors" = 0 ]
