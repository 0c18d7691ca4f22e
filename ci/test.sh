#!/usr/bin/env bash
# The README's second command, what the features add, the compiler's messages, and what measures.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo test
cargo test --all-features --test values --test tokio --test tokio_connection --test tokio_many \
    --test one_kill --test stand_ins --test faults
cargo test --all-features --doc
cargo test -p crossproc-compile-fail
cargo test -p crossproc-harness -p crossproc-report
