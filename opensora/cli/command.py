"""The sampling command up to the point where models are needed: read and check everything."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from adacache.calibration.target import TARGETS
from opensora.acceleration.launch import read_launch
from opensora.cli.plan import Plan, plan_samples
from opensora.cli.sidecar import read_sidecar
from opensora.config.entries import find_config, read_config_file
from opensora.config.loading import config_from_entries, load_config
from opensora.config.schema import SampleConfig
from opensora.config.trained_on import trained_on
from opensora.errors import ConfigError
from opensora.models.text_encoder import check_text_options
from opensora.prompts.chat import ChatEndpoint
from opensora.prompts.files import is_stream
from opensora.prompts.refine import api_key_from_env
from opensora.prompts.run_prompts import all_prompts
from opensora.weights import locate_weights

_USES_CALIBRATION = (*TARGETS, "draft", "final")
# Settings that do nothing without another one, which a prompt's own line may set: what that is, and whether a config
# has it. `opensora.config.loading` refuses those whose switch no line sets.
_SWITCHES: dict[str, tuple[str, Callable[[SampleConfig], bool]]] = {
    "calibration": (
        "one of " + ", ".join(_USES_CALIBRATION),
        lambda config: any(getattr(config, name) is not None for name in _USES_CALIBRATION),
    ),
    "condition_frame_length": ("a loop above 1", lambda config: config.loop > 1),
    "condition_frame_edit": ("a loop above 1", lambda config: config.loop > 1),
}


def prepare(
    config_path: str, flags: Mapping[str, Any], cfg_options: Mapping[str, Any], prompt_text: str | None = None
) -> Plan:
    """Read and check everything that needs no torch.

    Args:
        prompt_text: text that was read from a prompt file that can be read only once, such as standard input.

    Raises:
        ConfigError: a setting cannot be used, or no prompt can be sampled.
        WeightsError: weights are missing, unreachable or damaged.
    """
    flags = dict(flags)
    sidecar = flags.pop("from_sidecar", None)
    if sidecar is not None:
        config, sample = read_sidecar(sidecar, flags, cfg_options)
        samples = [sample]
    else:
        file = find_config(config_path)
        entries = read_config_file(file).to_dict()

        def line_config(overrides: Mapping[str, Any], where: str) -> SampleConfig:
            config = config_from_entries(entries, str(file), flags, cfg_options, overrides, where)
            _check_switches(overrides, [config], f"{where}: ")
            return config

        config = line_config({}, "")
        _check_stream(config, prompt_text)
        with each_message_once():
            samples = plan_samples(config, all_prompts(config, prompt_text), line_config)
    given = {**cfg_options, **{name: value for name, value in flags.items() if value is not None}}
    _check_switches(given, [sample.config for sample in samples])
    if config.llm_refine:
        ChatEndpoint(config.llm_endpoint, config.llm_model, api_key_from_env())  # refuses what cannot be used
    check_text_options(config)
    return Plan(config, samples, locate_weights(config))


def words_of(config_path: str, flags: Mapping[str, Any], cfg_options: Mapping[str, Any]) -> str:
    """Describe what the model of a config was trained on, as far as that is recorded.

    Raises:
        ConfigError: the config cannot be used.
    """
    config = load_config(config_path, flags, cfg_options)
    known = trained_on(config.model.from_pretrained)
    if known is not None:
        return str(known)
    return (
        f"{config.model.from_pretrained} comes with no list of words: describe a video in English, in up to "
        f"{config.text_encoder.model_max_length} tokens, or about {config.text_encoder.model_max_length * 2 // 3} words"
    )


def _check_stream(config: SampleConfig, text: str | None) -> None:
    """Refuse a stream in the config if several processes would read it; as a flag, rank 0 reads it for all."""
    path = config.prompt_path
    if text is None and path is not None and is_stream(path) and not read_launch().is_alone:
        raise ConfigError(
            f"prompt_path is '{path}', which only one process can read; give it as the flag --prompt-path {path}, "
            "which rank 0 reads for all"
        )


def _check_switches(given: Mapping[str, Any], configs: Sequence[SampleConfig], where: str = "") -> None:
    """Refuse settings that change no sample's video, as the switch that they need may be set by a prompt's own line.

    Args:
        where: what the sentence begins with.

    Raises:
        ConfigError: there is one.
    """
    for name, (switches, has_effect) in _SWITCHES.items():
        if given.get(name) is not None and not any(map(has_effect, configs)):
            raise ConfigError(f"{where}{name} has no effect without {switches}; set that, or leave {name} out")


@contextmanager
def each_message_once() -> Iterator[None]:
    """Within the block, log each message only once: thousands of prompt lines may share the same settings."""
    said: dict[str, logging.LogRecord] = {}

    def is_new(record: logging.LogRecord) -> bool:
        return said.setdefault(record.getMessage(), record) is record

    handlers = list(logging.getLogger().handlers)
    for handler in handlers:
        handler.addFilter(is_new)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_new)
