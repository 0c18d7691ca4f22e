#!/usr/bin/env bash
# What the other scripts need beyond cargo and rustc.
set -euo pipefail
cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
cargo fmt --version
cargo clippy --version
