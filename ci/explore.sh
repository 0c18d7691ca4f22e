#!/usr/bin/env bash
# The real state machines in the explorer: every state that three and four threads can reach, with
# the number of states. With an argument: those whose name contains it.
set -euo pipefail
exec bash "$(dirname "$0")/each.sh" explore "$@"
