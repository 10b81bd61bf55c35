"""Prompts as a language model rewrote them, asked for once and kept in the ledger."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from opensora.cli.ledger import Ledger
from opensora.cli.plan import PlannedSample
from opensora.config.schema import SampleConfig

if TYPE_CHECKING:
    from opensora.prompts.refine import PromptRefiner

logger = logging.getLogger(__name__)


def refined_texts(samples: Sequence[PlannedSample], ledger: Ledger) -> dict[str, str]:
    """The text that every sample is made from, by file stem; the prompt itself where nothing is to be refined.

    What the language model said in an earlier run counts, so that a continued run makes the same videos. A prompt that
    it cannot refine stays as it is, and the log says why.
    """
    texts: dict[str, str] = {}
    refiners: dict[tuple[str, str], PromptRefiner] = {}
    asked: dict[tuple[str, str, str], str | None] = {}
    for sample in samples:
        prompt, config = sample.prompt.text, sample.config
        texts[sample.stem] = prompt
        if not config.llm_refine:
            continue
        entry = ledger.entries.get(sample.stem)
        if entry is not None and entry.refined is not None:
            texts[sample.stem] = entry.refined
            continue
        server = (config.llm_endpoint, config.llm_model)
        if server not in refiners:
            refiners[server] = _refiner(*server)
        if (*server, prompt) not in asked:
            asked[*server, prompt] = None if refiners[server].gave_up else _ask(refiners[server], prompt)
        refined = asked[*server, prompt]
        if refined is None and entry is not None:
            entry.unrefined = True
        if refined is not None:
            texts[sample.stem] = refined
            if entry is not None:
                entry.refined = refined
                ledger.save()  # an answer that is lost might come out otherwise
    return texts


def check_endpoint(config: SampleConfig) -> None:
    """Refuse a config that refines prompts by something that is no address of a server.

    Raises:
        ConfigError: with what is wrong.
    """
    if config.llm_refine:
        _refiner(config.llm_endpoint, config.llm_model)


def _refiner(endpoint: str, model: str) -> PromptRefiner:
    from opensora.prompts.refine import PromptRefiner, api_key_from_env

    return PromptRefiner(endpoint, model, api_key_from_env())


def _ask(refiner: PromptRefiner, prompt: str) -> str | None:
    """The refined prompt, or None."""
    answer = refiner.refine(prompt)
    if answer.problem is not None:
        logger.warning("WARNING %s; it stays as it is: %s", answer.problem, prompt)
        return None
    logger.info("refined: %s", answer.text)
    return answer.text
