"""The sampling command up to the point where models are needed: read and check everything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opensora.cli.plan import Plan, distinct_configs, plan_samples
from opensora.cli.refining import check_endpoint
from opensora.cli.sidecar import read_sidecar
from opensora.config.loading import load_config
from opensora.config.schema import SampleConfig
from opensora.models.text_encoder import check_text_options
from opensora.prompts.run_prompts import all_prompts
from opensora.weights import locate_weights


def prepare(
    config_path: str, flags: Mapping[str, Any], cfg_options: Mapping[str, Any], prompt_text: str | None = None
) -> Plan:
    """Read and check everything that needs no torch.

    Args:
        prompt_text: what was read of a prompt file that can be read only once, such as standard input.

    Raises:
        ConfigError: something cannot be used, or no prompt can be sampled.
        WeightsError: weights are missing, unreachable or damaged.
    """
    flags = dict(flags)
    sidecar = flags.pop("from_sidecar", None)
    if sidecar is not None:
        config, sample = read_sidecar(sidecar, flags, cfg_options)
        samples = [sample]
    else:
        config = load_config(config_path, flags, cfg_options)

        def line_config(overrides: Mapping[str, Any], where: str) -> SampleConfig:
            return load_config(config_path, flags, cfg_options, overrides, where)

        samples = plan_samples(config, all_prompts(config, prompt_text), line_config)
    for chosen in distinct_configs(samples):
        check_endpoint(chosen)
    check_text_options(config)
    return Plan(config, samples, locate_weights(config))
