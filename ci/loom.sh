#!/usr/bin/env bash
# The real state machines in loom: every model, with the number of executions that it explored.
set -euo pipefail
cd "$(dirname "$0")/.."
RUSTFLAGS="--cfg crossproc_loom ${RUSTFLAGS:-}" \
    cargo test --release --target-dir target/loom --test loom "$@" -- --nocapture
