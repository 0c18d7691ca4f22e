#!/usr/bin/env bash
# The benchmarks beside rivals that are crates, which are in a package of their own, compile, and
# each row runs once. Without shaq, which takes a nightly compiler. They are optimised a little:
# without that a message of 1 MiB, which some rivals move, does not fit on the stack. What they
# depend on is not, which takes half the time to build.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --release -p wordcount
CROSSPROC_WORDCOUNT=$(realpath "${CARGO_TARGET_DIR:-target}/release/wordcount")
export CROSSPROC_WORDCOUNT
export CARGO_PROFILE_BENCH_OPT_LEVEL=1 CARGO_PROFILE_BENCH_DEBUG=0
for bench in queue broadcast pipe messages wordcount; do
    cargo bench --manifest-path benches/rivals/Cargo.toml \
        --config 'profile.bench.package."*".opt-level=0' --bench $bench -- --test
done
