#!/usr/bin/env bash
# Two machines with eight GPUs each, through SLURM: sbatch examples/sample_on_slurm.sh [CONFIG] [flags of inference.py]
# from the repository, which all machines share, as they share the folder of weights and the output folder.
#SBATCH --job-name=opensora-adacache
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=04:00:00
set -euo pipefail

# Set up once, where there is a network: bash run_sample_video.sh --help
source .venv/bin/activate

# torchrun's agents, one for each machine, meet at the first of them.
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# --kill-on-bad-exit: where a machine is lost, the others' agents do not wait for it.
srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_NNODES" \
    --nproc-per-node "${SLURM_GPUS_PER_NODE:-8}" \
    --rdzv-backend c10d \
    --rdzv-endpoint "$first:29500" \
    --rdzv-id "$SLURM_JOB_ID" \
    scripts/inference.py "${@:-configs/sample_adacache.py}"
