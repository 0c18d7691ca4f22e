#!/usr/bin/env bash
# FILE: prints the name of each test program and the file that it was built as, from what
# `cargo test --no-run` has said in FILE.
set -euo pipefail
sed -nE \
    -e 's,^ *Executable unittests src/lib\.rs \((.*/crossproc_sys-.*)\)$,sys \1,p' \
    -e 's,^ *Executable unittests src/lib\.rs \((.*/crossproc-.*)\)$,lib \1,p' \
    -e 's,^ *Executable tests/([a-z0-9_]*)(\.rs|/main\.rs) \((.*)\)$,\1 \3,p' "$1"
