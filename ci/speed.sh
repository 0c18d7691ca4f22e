#!/usr/bin/env bash
# Measures the rows of the README's table, losses too, and writes them there with the machine and
# the commit. Each is the median of alternated pairs, by `cargo bench -- ratios`. It takes a quiet
# machine, and real-time priority where it may have that. The rivals of the queue take a nightly
# compiler.
#
#   ci/speed.sh           measures, and writes the table
#   ci/speed.sh --again   writes it from what was measured last, in target/speed
set -euo pipefail
cd "$(dirname "$0")/.."
folder=target/speed
mkdir -p "$folder"
first=()
! chrt -f 50 true 2>/dev/null || first=(chrt -f 50)
if [ "${1:-}" != --again ]; then
    for bench in lock rwlock semaphore event barrier; do
        cargo bench --bench $bench --no-run
        "${first[@]}" cargo bench --bench $bench -- ratios >"$folder/$bench.txt"
    done
    cargo bench --bench pipe --no-run
    "${first[@]}" cargo bench --bench pipe -- "there and back, 8 B" >"$folder/pipe.txt"
    rivals=(--manifest-path benches/rivals/Cargo.toml)
    cargo +nightly bench "${rivals[@]}" --bench queue --features shaq --no-run
    "${first[@]}" cargo +nightly bench "${rivals[@]}" --bench queue --features shaq -- \
        ratios shaq "put + get, one thread" >"$folder/queue.txt"
fi

# BENCH OPERATION RIVAL NAME: a row, named so.
row() {
    awk -F ' *[|] *' -v operation="$2" -v rival="$3" -v name="$4" '
        $2 == operation && $3 == rival {
            printf "| %s | %s | %s | %s | %s |\n", name, rival, $4, $5, $6
            found = 1
        }
        END { exit !found }' "$folder/$1.txt" ||
        { echo "no row \"$2\" beside \"$3\" in $folder/$1.txt" >&2; exit 1; }
}
table() {
    echo "| operation | rival | crossproc | rival's time | ratio |"
    echo "|---|---|---|---|---|"
    row lock 'lock + unlock' 'pthread robust pshared' 'lock and unlock'
    row lock 'lock + unlock' 'std (threads only)' 'lock and unlock'
    row lock 'a section of 2 processes' 'pthread robust pshared' 'a short section of two processes'
    row lock 'a section of 2 processes' 'parking_lot (threads only)' \
        'a short section of two processes'
    row rwlock 'read + unlock' 'pthread pshared' "a readers' lock, read"
    row rwlock 'write + unlock' 'pthread pshared' "a readers' lock, write"
    row semaphore 'acquire + release, of 10' 'sem_t pshared' 'a permit, acquired and released'
    row event 'set + wait + clear' 'pthread mutex + cond pshared' \
        'an event, set, waited for, cleared'
    row event 'ping-pong, same CPU' 'raw futex, same spinning' \
        'two events, there and back, one CPU'
    row barrier 'a phase of 2 processes, same CPU' 'pthread pshared' 'a barrier of two, one CPU'
    row pipe 'there and back, 8 B' 'raw seqpacket, send and recv' \
        'a message of 8 bytes, there and back'
    row queue 'put + get, one thread' shaq 'an item through a queue, one thread'
}

machine=$(sed -n 's/^machine: *//p' "$folder/lock.txt")
commit=$(sed -n 's/^commit: *//p' "$folder/lock.txt")
new=$folder/README.md
{
    echo
    fmt -w 100 <<END
Below 1, crossproc is faster. Medians; crossproc and its rival were run in turns. On $machine;
commit $commit
(\`ci/speed.sh\`):
END
    echo
    table
    echo
} >"$folder/table.md"
# In place of what stands between the two comments.
awk -v table="$folder/table.md" '
    /^<!-- end -->/ { inside = 0 }
    !inside { print }
    /^<!-- begin: by ci\/speed\.sh/ { inside = 1; while ((getline line <table) > 0) print line }
' README.md >"$new"
cp "$new" README.md
table
