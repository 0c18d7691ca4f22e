#!/usr/bin/env bash
# Sends a directory so many frames that no program with this crate sends, a million if nothing is
# said, while others use it, who must be answered within 50 ms. Where it may, it gives server and
# honest clients real-time priority, so that nothing else on the machine counts; elsewhere the time
# in which they wait for a processor is left out.
set -euo pipefail
cd "$(dirname "$0")/.."
first=()
if chrt -f 50 true 2>/dev/null; then
    first=(chrt -f 50)
    export HOSTILE_STRICT=1
fi
cargo test --release --test directory_hostile --no-run
HOSTILE_FRAMES=${1:-1000000} "${first[@]}" \
    cargo test --release --test directory_hostile -- --nocapture --test-threads=1 honest
