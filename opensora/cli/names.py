"""File names of samples."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from opensora.config.schema import SampleConfig
from opensora.prompts.run_prompts import NumberedPrompt
from opensora.prompts.syntax import get_save_path_name

# Stems whose files would be the ledger's and other files of a run, or those that belong to another sample.
_TAKEN = re.compile(
    r"manifest|drafts.*|contact_sheet|.*\.(trace|frames|preview|loop\d+|page\d+)", re.IGNORECASE | re.DOTALL
)


def file_stems(
    config: SampleConfig, samples: Sequence[NumberedPrompt], prompts: Sequence[NumberedPrompt] | None = None
) -> list[str]:
    """File names without suffix, one per sample.

    Prompts that begin alike get their index appended; several samples of a prompt get their number, drafts and finals
    their seed. A name that the prompt's own line sets is taken as it is, unless other files of the run have it.

    Args:
        prompts: all that the list or file of the run has, so that a name does not depend on the chosen part; those of
            the samples, where they are left out.
    """
    prompts = samples if prompts is None else prompts
    own = {prompt.index: prompt.overrides.get("name") for prompt in prompts}
    bases = {
        prompt.index: own[prompt.index]
        or get_save_path_name("", config.sample_name, prompt.index, prompt.text, prompt_as_path=config.prompt_as_path)
        for prompt in prompts
    }
    counts = Counter(base.casefold() for base in bases.values())  # some file systems do not tell case apart
    seen: set[str] = set()
    for index, base in bases.items():
        is_free = counts[base.casefold()] == 1 and not _TAKEN.fullmatch(base)
        stem = base if is_free else f"{base}_{index:04d}"
        while stem.casefold() in seen:  # the index made a name that another prompt has
            stem = f"{stem}_{index:04d}"
        seen.add(stem.casefold())
        bases[index] = stem
    return [f"{bases[prompt.index]}{_ending(config, prompt)}" for prompt in samples]


def _ending(config: SampleConfig, prompt: NumberedPrompt) -> str:
    if config.draft is not None or config.final is not None:
        return f"_seed{prompt.seed}"
    return "" if config.num_sample == 1 else f"-{prompt.number}"
