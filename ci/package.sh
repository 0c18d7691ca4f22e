#!/usr/bin/env bash
# Packages both crates as they would be published, unpacks them, and builds and tests what is there:
# all targets, and the test programs that read files. Prints how large the packages are.
set -euo pipefail
cd "$(dirname "$0")/.."
most=$((800 * 1024))
root=$PWD
# Outside of the repository: nothing of that is found by accident.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cargo package --quiet --locked --no-verify --allow-dirty --target-dir "$folder" \
    -p crossproc-sys -p crossproc
for crate in "$folder"/package/*.crate; do
    tar -xzf "$crate" -C "$folder"
    size=$(stat -c %s "$crate")
    unpacked=$folder/$(basename "$crate" .crate)
    files=$(find "$unpacked" -type f | wc -l)
    printf '%s: %s bytes, %s files\n' "$(basename "$crate")" "$size" "$files"
    [ "$size" -le "$most" ] || {
        echo "more than $most bytes: what is it that nobody needs?"
        exit 1
    }
    for file in README.md LICENSE-MIT LICENSE-APACHE; do
        [ -s "$unpacked/$file" ] || { echo "$(basename "$crate") has no $file"; exit 1; }
    done
done
cd "$folder"/crossproc-[0-9]*
# Both are published together: the one is not on crates.io when the other is packaged.
sys=$(echo "$folder"/crossproc-sys-*)
packaged=(--config "patch.crates-io.crossproc-sys.path='$sys'" --target-dir "$root/target")
cargo check --quiet "${packaged[@]}" --all-features --all-targets
cargo test "${packaged[@]}" --test queue_model --test directory_model --test connection_packets \
    --test inherited --test layout
