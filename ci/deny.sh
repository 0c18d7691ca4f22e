#!/usr/bin/env bash
# The dependencies' licences and sources are those that deny.toml allows, and, with `--advisories`,
# none of them is known to be faulty. That fetches RustSec's list, by git. Installs cargo-deny if it
# is missing, which takes minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo deny --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-deny
checks=(licenses bans sources)
[ "${1:-}" != --advisories ] || checks+=(advisories)
cargo deny --all-features --log-level error check "${checks[@]}"
