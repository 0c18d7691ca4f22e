#!/usr/bin/env bash
# Runs every row of every benchmark, those beside crates in benches/rivals too, and prints one
# table: row, crossproc, rival, ratio with quartiles, bar, and whether the row is ok or short.
# target/bench-report has it as table.md and as report.json, plots, and in benches.txt what each
# benchmark prints. What cannot be built or run is named below the table. It takes a quiet machine,
# and real-time priority where it may have that.
#
#   ci/bench.sh           takes about an hour
#   ci/bench.sh --quick   takes few and short samples, in minutes, for a first impression
#   ci/bench.sh --write   writes the tables of README.md and docs/benchmarks.md from the last run,
#                         which must not have been a quick one
#   ci/bench.sh --trial   only checks that the benchmarks compile, and that each row runs once
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$PWD/target/bench-report
report=(cargo run --quiet --release -p crossproc-report -- "$folder")

mode=()
case "${1:-}" in
    --trial) exec cargo test --features serde --bench '*' ;;
    --write) exec "${report[@]}" --write README.md docs/benchmarks.md ;;
    --quick) mode=(--quick) ;;
    "") ;;
    *)
        echo "usage: ci/bench.sh [--quick | --write | --trial]" >&2
        exit 2
        ;;
esac
first=()
! chrt -f 50 true 2>/dev/null || first=(chrt -f 50)
rm -rf "$folder"
mkdir -p "$folder"
export CROSSPROC_BENCH_REPORT=$folder/benches

missing=()
# Runs all benchmarks of a package: CARGO, and its arguments.
measure() {
    "$@" --no-run
    # The tables of each benchmark go to a file of their own.
    local log=$folder/log.txt
    if "${first[@]}" "$@" --no-fail-fast -- ratios "${mode[@]}" 2>&1 >>"$folder/benches.txt" |
        tee "$log" >&2; then return; fi
    # At the end cargo names those that failed.
    local failed=0
    while read -r name; do
        missing+=(--missing "$name failed")
        failed=1
    done < <(sed -n 's/^ *`\(.*--bench [^`]*\)`.*/\1/p' "$log")
    [ $failed -eq 1 ] || missing+=(--missing "$* failed")
}

# The example that the word counts are of.
cargo build --release -p wordcount
CROSSPROC_WORDCOUNT=$(realpath "${CARGO_TARGET_DIR:-target}/release/wordcount")
export CROSSPROC_WORDCOUNT
measure cargo bench --features serde --bench '*'
# shaq takes a nightly compiler. Without it, the benchmark of queues names it as missing.
rivals=(bench --manifest-path benches/rivals/Cargo.toml --bench '*')
if cargo +nightly "${rivals[@]}" --features shaq --no-run; then
    measure cargo +nightly "${rivals[@]}" --features shaq
elif cargo "${rivals[@]}" --no-run; then
    measure cargo "${rivals[@]}"
else
    missing+=(--missing "benches/rivals cannot be built: nothing beside crates")
fi
"${report[@]}" "${missing[@]}"
[ ${#missing[@]} -eq 0 ]
