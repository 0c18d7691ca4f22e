#!/usr/bin/env bash
# Programs for the participants of a queue, against a model, for so many seconds: 30 if nothing is said. Where there is a nightly toolchain they are fuzzed, from the corpus in fuzz/; elsewhere the same interpreter
# is given random ones, and those of the corpus.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-30}
has_fuzzer() {
    cargo +nightly --version >/dev/null 2>&1 && { cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --locked; }
}
if has_fuzzer; then
    printf 'fuzzed: %s, %s\n' "$(cargo fuzz --version)" "$(cargo +nightly --version)"
    # What is found stays out of the corpus: it is the first directory that is written to.
    found=fuzz/target/found
    mkdir -p "$found"
    # Participants that die leak what they had in hand.
    ASAN_OPTIONS="detect_leaks=0:${ASAN_OPTIONS:-}" cargo +nightly fuzz run queue_ops "$found" fuzz/corpus/queue_ops -- \
        -max_total_time="$seconds" -max_len=256 -len_control=0 -timeout=60 -print_final_stats=1
else
    printf 'random programs, not fuzzed, for want of a nightly toolchain with cargo-fuzz: %s\n' "$(cargo --version)"
    CROSSPROC_MODEL_SECONDS=$seconds cargo test --release --test queue_model programs -- --nocapture
fi
