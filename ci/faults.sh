#!/usr/bin/env bash
# Makes every system call of every operation fail, as a debug and as a release build, and prints
# what came of it by call and errno. With arguments: parts of the names of cases, or --errors.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test --all-features --test faults -- --all "$@"
cargo test --release --all-features --test faults -- --all "$@"
