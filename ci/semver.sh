#!/usr/bin/env bash
# Compares the public API with the list of it, ci/public-api.txt, and fails on a difference. What
# left the list, or changed there, takes another version: see CONTRIBUTING.md. Needs a nightly
# toolchain, and installs cargo-public-api if it is missing, which takes minutes.
#
#   ci/semver.sh            compares
#   ci/semver.sh --accept   writes the list anew
set -euo pipefail
cd "$(dirname "$0")/.."
cargo public-api --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-public-api
mkdir -p target
cargo +nightly public-api -p crossproc --all-features -sss >target/public-api.txt
if [ "${1:-}" = --accept ]; then
    cp target/public-api.txt ci/public-api.txt
else
    diff ci/public-api.txt target/public-api.txt || {
        echo "the public API has changed: if it was meant to, run ci/semver.sh --accept" >&2
        exit 1
    }
fi
