#!/usr/bin/env bash
# How many instructions each operation takes: the difference between two runs of different length
# under callgrind, so that what comes first costs nothing. Not of `fork`: valgrind knows
# `pidfd_open` from 3.21 on.
# costs.sh [OPERATION...]
set -euo pipefail
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || {
    echo "costs.sh: valgrind is missing: apt-get install valgrind" >&2
    exit 1
}
[ $# -gt 0 ] || set -- lock lock_in_lock rlock rlock_twice read write semaphore permits event \
    put_get loan_receive get_of_none put_into_full batch batch_received task send_recv
program=$(cargo bench --bench instructions --no-run --message-format=json 2>/dev/null |
    sed -n 's/.*"name":"instructions".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1)

count() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$@" 2>&1 |
        sed -n 's/.*Collected : \([0-9]*\).*/\1/p' | tail -n 1
}

for operation; do
    times=10000
    few=$(count "$operation" "$times")
    many=$(count "$operation" $((2 * times)))
    printf '%-14s %s\n' "$operation" "$(((many - few + times / 2) / times))"
done
