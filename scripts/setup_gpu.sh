#!/bin/sh
# Makes .venv with CUDA builds of torch and vLLM, which pip takes from PyPI. Not locked: which
# builds fit depends on the driver. PYTHON= names an interpreter (3.11 or 3.12).
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || {
    echo "rlpost set-up: $python is not Python 3.11 or 3.12; name one: make setup-gpu PYTHON=..." >&2
    exit 2
}
[ -x .venv/bin/pip ] || "$python" -m venv .venv
# DeepSpeed is a source distribution: its kernels are built when first used, not here.
DS_BUILD_OPS=0 .venv/bin/pip install --quiet --editable '.[gpu]'
echo "rlpost set-up: ready; examine the machine with .venv/bin/rlpost doctor"
