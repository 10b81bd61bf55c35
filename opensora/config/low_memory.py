"""``low_memory``: one entry for everything that makes a run smaller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opensora.config.reading import Source
from opensora.config.sections import SECTIONS, section_class

# Section ("" for the top level) -> entries. What the command line sets otherwise stays as it is set there.
_ENTRIES: dict[str, dict[str, Any]] = {
    "": {"batch_size": 1},
    "vae": {"tiling": True, "micro_batch_size": 1},
    "text_encoder": {"dtype": "bf16"},
    "cache": {"cache_device": "cpu"},
}


def with_low_memory(entries: Mapping[str, Any], source: Source) -> dict[str, Any]:
    """``entries`` of a config with those of low memory in their place, where it is asked for."""
    result = dict(entries)
    if result.get("low_memory") is not True:
        return result
    for section, wanted in _ENTRIES.items():
        prefix = f"{section}." if section else ""
        chosen = {key: value for key, value in wanted.items() if f"{prefix}{key}" not in source.from_command_line}
        if not section:
            result |= chosen
        elif isinstance(result.get(section), Mapping):  # another value gets its own error
            result[section] = {**result[section], **_known(section, result[section], chosen)}
    return result


def _known(section: str, entries: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``chosen`` that the section's type has."""
    fields = section_class(section, entries).__dataclass_fields__ if section in SECTIONS else chosen
    return {key: value for key, value in chosen.items() if key in fields}
