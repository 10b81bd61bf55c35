"""Prompts as a language model rewrote them, asked for once and kept in the ledger."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from opensora.cli.ledger import Ledger
from opensora.cli.plan import Sample
from opensora.config.schema import SampleConfig
from opensora.prompts.refine import PromptRefiner, api_key_from_env

logger = logging.getLogger(__name__)


def refine(samples: Iterable[Sample], ledger: Ledger) -> None:
    """Enter into each sample what the language model of its config makes of the prompt, where that is asked for.

    What it said in an earlier run counts, so that a continued run makes the same videos. A prompt that it cannot refine
    stays as it is, and the log says why.
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
        if entry is not None:  # an answer that is lost might come out otherwise
            changes = {"unrefined": True} if sample.refined is None else {"refined": sample.refined}
            ledger.note(sample.stem, sync=True, **changes)


def check_endpoint(config: SampleConfig) -> None:
    """Refuse a config that refines prompts by something that is no address of a server.

    Raises:
        ConfigError: with what is wrong.
    """
    if config.llm_refine:
        _refiner(config.llm_endpoint, config.llm_model)


def _refiner(endpoint: str, model: str) -> PromptRefiner:
    return PromptRefiner(endpoint, model, api_key_from_env())


def _ask(refiner: PromptRefiner, prompt: str) -> str | None:
    """The refined prompt, or None."""
    answer = refiner.refine(prompt)
    if answer.problem is not None:
        logger.warning("WARNING %s; it stays as it is: %s", answer.problem, prompt)
        return None
    logger.info("refined: %s", answer.text)
    return answer.text
