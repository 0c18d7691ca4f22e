#!/usr/bin/env bash
# Kills so many participants of a queue, one after the other, at any instant: 1,000 if nothing is said.
set -euo pipefail
cd "$(dirname "$0")/.."
CHAOS_KILLS=${1:-1000} cargo test --release --test queue_chaos -- --nocapture --test-threads=1
