"""Prompts as a language model rewrote them, asked for once and kept in the ledger."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from opensora.cli.ledger import Ledger
from opensora.cli.plan import Sample
from opensora.config.schema import SampleConfig
from opensora.prompts.chat import ChatEndpoint
from opensora.prompts.refine import PromptRefiner, api_key_from_env

logger = logging.getLogger(__name__)


def refine(samples: Iterable[Sample], ledger: Ledger) -> None:
    """Set `refined` of each sample to the prompt as the language model rewrites it, where its config asks for that.

    An answer from an earlier run is used again, so that a continued run makes the same videos. A prompt that cannot be
    refined stays as it is, and the log says why.
    """
    refiners: dict[tuple[str, str], PromptRefiner] = {}
    asked: dict[tuple[str, str, str], str | None] = {}
    for sample in samples:
        prompt, config = sample.prompt, sample.config
        if not config.llm_refine:
            continue
        entry = ledger.get(sample.stem)
        if entry is not None and entry.refined is not None:
            sample.refined = entry.refined
            continue
        server = (config.llm_endpoint, config.llm_model)
        if server not in refiners:
            refiners[server] = _refiner(*server)
        if (*server, prompt) not in asked:
            asked[*server, prompt] = None if refiners[server].gave_up else _ask(refiners[server], prompt)
        sample.refined = asked[*server, prompt]
        if entry is not None:  # asked again, the model might answer otherwise
            changes = {"unrefined": True} if sample.refined is None else {"refined": sample.refined}
            ledger.note(sample.stem, sync=True, **changes)


def check_endpoint(config: SampleConfig) -> None:
    """Refuse a config whose `llm_endpoint`, `llm_model` or API key cannot be used to refine prompts.

    Raises:
        ConfigError: says what is wrong.
    """
    if config.llm_refine:
        _refiner(config.llm_endpoint, config.llm_model)


def _refiner(endpoint: str, model: str) -> PromptRefiner:
    return PromptRefiner(ChatEndpoint(endpoint, model, api_key_from_env()))


def _ask(refiner: PromptRefiner, prompt: str) -> str | None:
    """Return the refined prompt; log why and return None if there is none."""
    answer = refiner.refine(prompt)
    if answer.problem is not None:
        logger.warning("WARNING %s; it stays as it is: %s", answer.problem, prompt)
        return None
    logger.info("refined: %s", answer.text)
    return answer.text
