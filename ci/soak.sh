#!/usr/bin/env bash
# Eight processes, one of each primitive, and a death every 20 ms, for so many seconds: 10 if
# nothing is said.
set -euo pipefail
cd "$(dirname "$0")/.."
CROSSPROC_SOAK_SECONDS=${1:-10} cargo test --release --test soak -- --nocapture
