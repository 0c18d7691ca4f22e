#!/usr/bin/env bash
# Kills so many participants of a queue, one after the other, at any instant: 1,000 if nothing is
# said. Kills senders and subscribers of broadcasts, with each policy for a second in two hundred of
# those. Hands a hundred times as many handles on between four processes, of which it kills one now
# and then. And kills so many processes in the middle of an operation for each way in which another
# of their threads can sleep for the same thing.
set -euo pipefail
cd "$(dirname "$0")/.."
kills=${1:-1000}
CHAOS_KILLS=$kills cargo test --release --test queue_chaos -- --nocapture --test-threads=1
BROADCAST_SECONDS=$(((kills + 199) / 200)) cargo test --release --test broadcast -- --nocapture \
    whoever_is_killed
KILLS=$kills cargo test --release --features tokio --test one_kill -- --nocapture --test-threads=1
HANDOVERS=$((kills * 100)) cargo test --release --test handover -- --nocapture --test-threads=1
