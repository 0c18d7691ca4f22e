#!/usr/bin/env bash
# The real state machines in the explorer: every state that three and four threads can reach, with
# the number of states.
set -euo pipefail
cd "$(dirname "$0")/.."
RUSTFLAGS="--cfg crossproc_loom ${RUSTFLAGS:-}" \
    cargo test --release --target-dir target/loom --test explore "$@" -- --nocapture
