#!/usr/bin/env bash
# The benchmarks compile, and each runs once.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test --bench '*'
