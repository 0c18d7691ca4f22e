#!/usr/bin/env bash
# The documentation builds without a warning, and what the README has in common with it is the same
# text: each file that a comment in the README names, `<!-- begin: FILE -->`, stands below it.
set -euo pipefail
cd "$(dirname "$0")/.."
for file in examples/first.rs docs/what-there-is.md; do
    # Without the fence around code.
    sed -n "\\,^<!-- begin: $file -->,,/^<!-- end -->/p" README.md |
        sed -e '1d;$d' -e '/^```/d' | diff "$file" - ||
        { echo "README.md has another text than $file" >&2; exit 1; }
done
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --no-deps --document-private-items
# As docs.rs builds it, with badges for what a feature adds.
if rustdoc +nightly --version >/dev/null 2>&1; then
    RUSTDOCFLAGS="--cfg docsrs -D warnings" cargo +nightly doc --quiet -p crossproc --all-features \
        --no-deps --target-dir target/docsrs
else
    echo "not built as on docs.rs, for want of a nightly toolchain"
fi
