#!/usr/bin/env bash
# Text to video in one command: sets up on the first run, then samples. Arguments are those of scripts/inference.py;
# without a config file among them it is configs/mini/sample_adacache.py. NPROC=8 before the command runs 8 processes, one
# for each GPU.
set -euo pipefail

if [[ ! ${NPROC:-1} =~ ^[1-9][0-9]*$ ]]; then
    echo "error: NPROC is '$NPROC'; give a number of processes, such as NPROC=8" >&2
    exit 2
fi

scripts=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
source "$scripts/setup_env.sh" run

# Idle OpenMP threads that spin take the cores from the ones that work.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
if [[ ${NPROC:-1} == 1 ]]; then
    exec "$PYTHON" "$scripts/inference.py" "$@"
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # torchrun's default, without its banner
exec "$PYTHON" -m torch.distributed.run --standalone --nproc-per-node "$NPROC" "$scripts/inference.py" "$@"
