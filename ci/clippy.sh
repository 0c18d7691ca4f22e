#!/usr/bin/env bash
# Both worlds: the real one, and the one of the loom models.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo clippy --workspace --all-targets -- -D warnings
RUSTFLAGS="--cfg crossproc_loom ${RUSTFLAGS:-}" \
    cargo clippy --workspace --lib --test loom --test explore --target-dir target/loom -- -D warnings
