"""Bytes and times of several processes: `torchrun --nproc-per-node 4 scripts/bench_parallel.py [CONFIG]`.

The flags are those of scripts/inference.py; the first prompt is sampled under every arrangement that shares it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

# A checkout that is not installed works, too.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from opensora.environment import enter_environment  # noqa: E402

if __name__ == "__main__":
    enter_environment()

from opensora.acceleration.launch import read_launch  # noqa: E402
from opensora.cli.arguments import parse_arguments  # noqa: E402
from opensora.errors import ConfigError, run_command  # noqa: E402


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark and return its exit code."""
    description = "Count what several processes exchange to sample the first prompt, and time it; run it by torchrun."
    return run_command(lambda: measure(*parse_arguments(arguments, description)), several=True)


def measure(config_path: str, flags: dict, cfg_options: dict) -> int:
    """Sample, and print the table on rank 0.

    Raises:
        ConfigError: the config or the number of processes cannot be used.
    """
    from opensora.config.loading import load_config
    from opensora.prompts.run_prompts import read_prompts

    launch = read_launch()
    if launch.is_alone:
        raise ConfigError("one process has nothing to exchange; start with torchrun --nproc-per-node 2 or more")
    config = load_config(config_path, {**flags, "verbose": 0}, cfg_options)
    prompt = read_prompts(config)[0].text

    from bench.timing.parallel import arrangements, bench, table
    from opensora.acceleration.processes import Processes
    from opensora.device import limit_threads
    from opensora.memory.shapes import read_shapes
    from opensora.pipeline import SamplingPipeline

    processes = Processes(launch)
    shapes = read_shapes(config)
    frames, tokens = shapes.latent_size[0], shapes.tokens_per_frame
    pipe = SamplingPipeline.from_config(config)
    limit_threads(pipe.model)
    ways = arrangements(launch.world_size, config, (frames, tokens), shapes.rows_per_video)
    results = bench(processes, pipe, prompt, ways)
    if launch.rank == 0:
        print(f"{config.path}: {frames} latent frames of {tokens} tokens, '{prompt}'")
        print(table(results))
    processes.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
