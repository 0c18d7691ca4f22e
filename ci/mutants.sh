#!/usr/bin/env bash
# Breaks the state machines, one line of ci/mutants.txt at a time, in a copy of the tree, and runs the loom models on each: every one must fail.
# With an argument: only those whose name contains it. It takes a while, so it is for whoever changes a state machine or a model, not for every commit.
set -euo pipefail
cd "$(dirname "$0")/.."
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
mkdir -p target/loom
cp -r Cargo.toml Cargo.lock src sys tests benches examples ci "$copy"
survivors=0 caught=0
while IFS=$'\t' read -r name file substitution models; do
    case $name in '#'* | '') continue ;; *"${1:-}"*) ;; *) continue ;; esac
    cp "$file" "$copy/$file"
    perl -0pi -e "$substitution" "$copy/$file"
    if cmp -s "$file" "$copy/$file"; then
        printf 'NO MATCH  %s\n' "$name"
        survivors=$((survivors + 1))
        continue
    fi
    if (cd "$copy" && CARGO_TARGET_DIR="$OLDPWD/target/loom" RUSTFLAGS="--cfg crossproc_loom" RUST_BACKTRACE=0 \
        timeout 300 cargo test --quiet --release --test loom "$models") >"$copy/log" 2>&1; then
        printf 'SURVIVED  %s\n' "$name"
        survivors=$((survivors + 1))
    elif grep -q 'could not compile' "$copy/log"; then
        printf 'NO BUILD  %s\n' "$name"
        survivors=$((survivors + 1))
    else
        failed=$(grep -A99 '^failures:$' "$copy/log" | sed -n 's/^    //p' | sort -u | paste -sd ' ')
        printf 'caught    %s: %s\n' "$name" "${failed:-only by its time limit}"
        caught=$((caught + 1))
    fi
    cp "$file" "$copy/$file"
done <ci/mutants.txt
printf '%s caught, %s not\n' "$caught" "$survivors"
[ "$survivors" = 0 ]
