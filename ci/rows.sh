#!/usr/bin/env bash
# Every row of the mutants' lists still changes the code that it names.
set -euo pipefail
cd "$(dirname "$0")/.."
rows=0 stale=0
for list in ci/mutants*.txt; do
    while IFS=$'\t' read -r name file substitution _; do
        case $name in '#'* | '') continue ;; esac
        rows=$((rows + 1))
        if perl -0pe "$substitution" "$file" | cmp -s - "$file"; then
            printf '%s: no match: %s\n' "$list" "$name"
            stale=$((stale + 1))
        fi
    done <"$list"
done
printf '%s rows, %s without a match\n' "$rows" "$stale"
[ "$stale" = 0 ]
