#!/usr/bin/env bash
# The example on real files, with workers killed on the way: the documentation that comes with the
# toolchain, or another tree of at least 20 MB.
set -euo pipefail
cd "$(dirname "$0")/.."
least=$((20 * 1024))
for tree in "$(rustc --print sysroot)/share/doc" "${CARGO_HOME:-$HOME/.cargo}/registry/src" \
    /usr/share /usr/lib; do
    size=$(du -skL "$tree" 2>/dev/null | cut -f1 || true)
    if [ "${size:-0}" -ge "$least" ]; then
        printf '%s KB\n' "$size"
        cargo run --release -p wordcount -- --chaos 8 --top 20 --check "$tree"
        exit
    fi
done
echo "no tree of at least 20 MB was found" >&2
exit 1
