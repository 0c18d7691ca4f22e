#!/usr/bin/env bash
# Both worlds: the real one, with its features and without, and the one of the loom models. And the
# crate below by itself, which must name the features that it needs of others.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo clippy -p crossproc-sys -- -D warnings
cargo clippy --workspace --lib --bins --examples -- -D warnings
cargo clippy --workspace --all-targets --all-features -- -D warnings
RUSTFLAGS="--cfg crossproc_loom ${RUSTFLAGS:-}" \
    cargo clippy --workspace --lib --test loom --test explore --target-dir target/loom -- \
    -D warnings
