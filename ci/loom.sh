#!/usr/bin/env bash
# The real state machines in loom: every model, or those whose name contains an argument, with the
# number of executions that it explored.
set -euo pipefail
exec bash "$(dirname "$0")/each.sh" loom "$@"
