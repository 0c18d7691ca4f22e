#!/usr/bin/env bash
# PROGRAM [NAME]: runs each test of a program of models, or those whose name contains NAME, in a
# process of its own, as many at a time as there are CPUs. In one process they would wait for each
# other: for the stacks of their threads, which tests/loom/stacks.rs keeps.
set -euo pipefail
cd "$(dirname "$0")/.."
program=$1
shift
export RUSTFLAGS="--cfg crossproc_loom ${RUSTFLAGS:-}"
# A model that fails says where by itself.
export CARGO_PROFILE_RELEASE_DEBUG=0
cargo test --release --target-dir target/loom --test "$program" --no-run
binary=$(cargo test --release --target-dir target/loom --test "$program" --no-run 2>&1 |
    sed -n 's/^ *Executable .* (\(.*\))$/\1/p')
models=$("$binary" --list --format terse "$@" | sed -n 's/: test$//p')
[ -n "$models" ] || { echo "no model has such a name"; exit 1; }
# The explorer's set of states is large, and each look at it another page.
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
printf '%s models\n' "$(wc -l <<<"$models")"
# Those of four participants take longest. They come first, so that none is left alone at the end.
{ grep four <<<"$models" || true; grep -v four <<<"$models" || true; } |
    xargs -P "$(nproc)" -n 1 "$binary" --exact --nocapture |
    grep -v -e '^$' -e '^running 1 test$' -e '^test result: ok'
