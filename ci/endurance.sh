#!/usr/bin/env bash
# Does and undoes everything so many times, 20,000 if nothing is said, and looks whether
# descriptors, mappings, threads, children, memory and robust lists are as before. It takes some
# minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
CROSSPROC_PATIENCE=3600 ENDURANCE=${1:-20000} \
    cargo test --release --test endurance -- --nocapture --test-threads=1
