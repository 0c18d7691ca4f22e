#!/usr/bin/env bash
# Kills and stops a process at single instructions of each operation, and has the others go on. Samples them, in four minutes;
# --all: every instruction, which takes a while. With a NAME: only cases whose name contains it.
set -euo pipefail
cd "$(dirname "$0")/.."
case " $* " in *' --all '*) ;; *) set -- --sample "$@" ;; esac
cargo test --release --test kill -- "$@"
