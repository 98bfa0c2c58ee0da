#!/usr/bin/env bash
# launch/ray_job.sh [options] <stage> [overrides]: a stage as a job on a running Ray cluster.
# The same as `rlpost submit`, by the rlpost of this checkout; --help lists the options. The cluster
# should ask for a token, and then so does this: docs/running.md, "On a Ray cluster", has both.
set -euo pipefail

checkout="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
rlpost="$checkout/.venv/bin/rlpost"
if [[ ! -x "$rlpost" ]]; then
    echo "error: $rlpost does not exist; run \`make setup\` in $checkout first" >&2
    exit 2
fi
exec "$rlpost" submit "$@"
