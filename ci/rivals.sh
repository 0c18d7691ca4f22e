#!/usr/bin/env bash
# The benchmarks beside rivals that are crates, which are in a package of their own, compile, and
# each row runs once. Without shaq, which takes a nightly compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test --manifest-path benches/rivals/Cargo.toml --bench queue --bench pipe
