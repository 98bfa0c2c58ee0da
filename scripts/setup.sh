#!/bin/sh
# Finds Python 3.11, checks the machine, then brings .venv to the state of the lock.
# PYTHON= names an interpreter; without it python3.11 and python3 are tried.
set -u
cd "$(dirname "$0")/.." || exit 1

chosen=""
for candidate in "${PYTHON:-}" python3.11 python3; do
    [ -n "$candidate" ] || continue
    # A version manager's shim may exist for an interpreter that does not.
    "$candidate" -c "" 2>/dev/null || {
        [ "$candidate" = "${PYTHON:-}" ] || continue
        echo "rlpost set-up: PYTHON=$candidate does not run; name a Python 3.11." >&2
        exit 2
    }
    [ -n "$chosen" ] || chosen=$candidate
    if [ "$candidate" = "${PYTHON:-}" ] || "$candidate" -c \
        "import sys; sys.exit(sys.version_info[:2] != (3, 11))"; then
        chosen=$candidate
        break
    fi
done
if [ -z "$chosen" ]; then
    echo "rlpost set-up: no Python found. Python 3.11 is needed" \
        "(Debian: apt-get install python3.11 python3.11-venv; or make PYTHON=/path/to/it)." >&2
    exit 2
fi

"$chosen" scripts/preflight.py || exit $?
exec "$chosen" scripts/bootstrap.py
