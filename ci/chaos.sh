#!/usr/bin/env bash
# Kills so many participants of a queue, one after the other, at any instant: 1,000 if nothing is said. And hands a hundred times as many handles on between four processes, of which it kills one now and then.
set -euo pipefail
cd "$(dirname "$0")/.."
kills=${1:-1000}
CHAOS_KILLS=$kills cargo test --release --test queue_chaos -- --nocapture --test-threads=1
HANDOVERS=$((kills * 100)) cargo test --release --test handover -- --nocapture --test-threads=1
