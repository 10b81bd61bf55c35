#!/usr/bin/env bash
# Sample on two machines with eight GPUs each, through SLURM: sbatch examples/sample_on_slurm.sh [CONFIG] [flags of
# inference.py], run from the repository. All machines share the repository, the folder of weights and the output folder.
#SBATCH --job-name=opensora-adacache
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=04:00:00
set -euo pipefail

# Set up once, where there is a network: bash run_sample_video.sh --help
source .venv/bin/activate

# Without a config, that of the large model: scripts/inference.py alone would take the bundled small one.
[[ ${1:-} == *.py || " $* " == *" --from-sidecar"* ]] || set -- configs/sample_adacache.py "$@"

# Each machine runs one torchrun agent; the agents meet on the first machine.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# --kill-on-bad-exit: if a machine is lost, the agents of the others do not wait for it.
srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_NNODES" \
    --nproc-per-node "${SLURM_GPUS_PER_NODE:-8}" \
    --rdzv-backend c10d \
    --rdzv-endpoint "$first:29500" \
    --rdzv-id "$SLURM_JOB_ID" \
    scripts/inference.py "$@"
