#!/usr/bin/env bash
# Lint, then the whole test suite; arguments go to pytest. Fails if either does, and pytest's summary is the last line.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
source scripts/setup_env.sh dev

# The suite never needs the network, and small tensors are fastest on one thread.
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE PYTHONDONTWRITEBYTECODE=1

lint=0
"$PYTHON" -m ruff check . || lint=1
"$PYTHON" -m ruff format --check . || lint=1

# One process per core, each on one thread; a file's tests stay together, since they share what is slow to make.
tests=0
"$PYTHON" -m pytest -n logical --maxprocesses 4 --dist loadfile "$@" || tests=$?
exit $((tests ? tests : lint))
