#!/usr/bin/env bash
# Kills and stops a process at single instructions of each operation, and has the others go on.
# Of instructions that nobody else can notice one stands for all that follow each other: the others
# leave everything as it is, but for the process's own registers and stack (tests/kill/harness).
# Samples them, in three minutes.
# With a NAME: only cases whose name contains it.
# --all: every point, on all CPUs, which takes an hour with two. What was done is recorded for the
# commit, in target/kill/, and not done again: so it can be done in parts. To do a case again,
# delete its lines. A tree with changes is recorded, too, but anew each time.
# --all --for SECONDS: ends after that; the exit code is 2 if there is more to do.
# --report: what was done of this commit.
set -euo pipefail
cd "$(dirname "$0")/.."
case " $* " in
*' --all '* | *' --report '*)
    record=$(git rev-parse --short=12 HEAD)
    if [ -n "$(git status --porcelain)" ]; then
        record=$record-dirty
        case " $* " in *' --all '*) rm -f "target/kill/$record.txt" ;; esac
    fi
    set -- --record "target/kill/$record.txt" "$@"
    ;;
*) set -- --sample "$@" ;;
esac
cargo test --release --test kill -- "$@"
