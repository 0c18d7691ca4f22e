#!/usr/bin/env bash
# The benchmarks beside rivals, which are in a package of their own, compile, and each row runs
# once. Without shaq, which takes a nightly compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo bench --manifest-path rivals/Cargo.toml --bench queue -- --test
cargo bench --manifest-path rivals/Cargo.toml --bench pipe -- --test
