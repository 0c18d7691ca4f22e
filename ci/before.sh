#!/usr/bin/env bash
# COMMIT [ROUNDS]: each row of the benchmarks that COMMIT has, too, as it was there and as it is
# now: a table of the medians. The programs of both run in turns, ROUNDS times each (3 if nothing is
# said), with real-time priority where that is allowed.
set -euo pipefail
cd "$(dirname "$0")/.."
commit=$(git rev-parse --short=7 "$1")
rounds=${2:-3}
tree=$PWD/target/before/$commit
if [ ! -d "$tree" ]; then
    mkdir -p "$tree"
    git archive "$commit" | tar -x -C "$tree"
fi
# As many samples as `--quick` asks for, which the programs of that time do not know.
full='Effort { pairs: 41, sample: Duration::from_millis(12) }'
quick='Effort { pairs: 11, sample: Duration::from_millis(5) }'
grep -rlF --include=ratios.rs "$full" "$tree/benches" | xargs -r sed -i "s/$full/$quick/"

first=()
! chrt -f 50 true 2>/dev/null || first=(chrt -f 50)
# One of the crates beside which queues are measured takes a nightly compiler.
nightly=() shaq=()
if cargo +nightly --version >/dev/null 2>&1; then nightly=(+nightly) shaq=(--features shaq); fi

# FOLDER PROGRAM: the benchmark's program, which is built if need be.
program() {
    local cargo=(cargo) features=()
    case $2 in
        queue | pipe)
            local beside=$1/benches/rivals
            [ -f "$beside/Cargo.toml" ] || beside=$1/rivals
            cargo=(cargo "${nightly[@]}") features=("${shaq[@]}")
            ;;
        *) local beside=$1 ;;
    esac
    "${cargo[@]}" bench --manifest-path "$beside/Cargo.toml" "${features[@]}" --bench "$2" \
        --no-run --message-format json | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
}

log=$tree/rows.txt
: >"$log"
for name in lock rwlock event semaphore condition barrier permits queue pipe; do
    before=$(program "$tree" $name)
    now=$(program "$PWD" $name)
    filter=()
    # The fastest of its rivals. All of them would take an hour.
    [ $name != queue ] || filter=(shaq)
    for ((round = 0; round < rounds; round++)); do
        printf '%s, round %s\n' $name $((round + 1)) >&2
        "${first[@]}" "$before" ratios "${filter[@]}" --bench | sed "s/^/before|$name/" >>"$log"
        "${first[@]}" "$now" ratios --quick "${filter[@]}" --bench | sed "s/^/now|$name/" >>"$log"
    done
done

# The columns: when, program, operation, rival, crossproc's time, the rival's, the ratio.
awk -F ' *[|] *' '
    function nanos(text,  part) {
        split(text, part, " ")
        if (part[2] == "ns") return part[1]
        return part[1] * (part[2] == "µs" ? 1e3 : part[2] == "ms" ? 1e6 : 1e9)
    }
    function median(text,  all, count, i, j, swap) {
        count = split(text, all, " ")
        for (i = 2; i <= count; i++)
            for (j = i; j > 1 && all[j - 1] + 0 > all[j] + 0; j--) {
                swap = all[j]; all[j] = all[j - 1]; all[j - 1] = swap
            }
        return all[int((count + 1) / 2)]
    }
    function time(number) {
        return sprintf((number < 100 ? "%.1f" : "%.0f"), number)
    }
    NF > 7 && $7 + 0 > 0 {
        row = $2 " | " $3 " | " $4
        if (!(row in known)) { known[row]; rows[++last] = row }
        times[$1, row] = times[$1, row] " " nanos($5)
        ratios[$1, row] = ratios[$1, row] " " $7
    }
    END {
        print "| benchmark | operation | rival | before, ns | now, ns | now / before |" \
            " before / rival | now / rival |"
        print "|---|---|---|---|---|---|---|---|"
        for (i = 1; i <= last; i++) {
            row = rows[i]
            if (("before", row) in times && ("now", row) in times) {
                before = median(times["before", row]); now = median(times["now", row])
                printf "| %s | %s | %s | %.3g | %.3g | %.3g |\n", row, time(before), time(now),
                    now / before, median(ratios["before", row]), median(ratios["now", row])
            }
        }
    }' "$log"
