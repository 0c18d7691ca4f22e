#!/usr/bin/env bash
# Programs for the participants of a queue and for the clients of a directory, and packets for a
# connection, against models, for so many seconds each: 30 if nothing is said. Where there is a
# nightly toolchain they are fuzzed, from the corpus in tests/; elsewhere the same interpreters are
# given random ones, and those of the corpus.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-30}
has_fuzzer() {
    cargo +nightly --version >/dev/null 2>&1 &&
        { cargo fuzz --version >/dev/null 2>&1 || cargo install cargo-fuzz --locked; }
}
if has_fuzzer; then
    printf 'fuzzed: %s, %s\n' "$(cargo fuzz --version)" "$(cargo +nightly --version)"
    cargo +nightly fuzz build
    # TARGET:LENGTH
    fuzz() {
        local target=${1%:*} length=${1#*:}
        # What is found stays out of the corpus: it is the first directory that is written to.
        local found=fuzz/target/found/$target
        mkdir -p "$found"
        # Participants that die leak what they had in hand.
        ASAN_OPTIONS="detect_leaks=0:${ASAN_OPTIONS:-}" \
            cargo +nightly fuzz run "$target" "$found" "tests/corpus/$target" -- \
            -max_total_time="$seconds" -max_len="$length" -len_control=0 -timeout=60 \
            -print_final_stats=1
    }
    export -f fuzz
    export seconds
    printf '%s\n' queue_ops:256 connection_recv:512 directory_serve:1024 |
        xargs -P "$(nproc)" -I {} bash -euo pipefail -c 'fuzz {}'
else
    printf 'random programs, not fuzzed, for want of a nightly toolchain with cargo-fuzz: %s\n' \
        "$(cargo --version)"
    CROSSPROC_MODEL_SECONDS=$seconds \
        cargo test --release --test queue_model --test directory_model programs -- --nocapture
    CROSSPROC_MODEL_SECONDS=$seconds cargo test --release --test connection_packets -- --nocapture
fi
