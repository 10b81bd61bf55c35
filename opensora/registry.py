"""Registries that turn the ``dict(type=..., ...)`` entries of config files into objects.

Source: Open-Sora v1.2, ``opensora/registry.py``; the registered names are upstream's.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from mmengine.registry import Registry

from opensora.utils.errors import suggest

MODELS = Registry("model")
SCHEDULERS = Registry("scheduler")

# Modules that register something when imported; loaded on first use, so that importing this file stays cheap.
_PROVIDERS = {
    "model": ("opensora.models.stdit.stdit3", "opensora.models.vae.vae", "opensora.models.text_encoder.t5"),
    "scheduler": ("opensora.schedulers.rf",),
}


def build_module(module: Mapping[str, Any], registry: Registry, **kwargs: Any) -> Any:
    """Build the object that ``module["type"]`` names, with the other entries and ``kwargs`` as arguments.

    Raises:
        ValueError: no ``type``, or one that ``registry`` does not know (the nearest name is suggested).
    """
    arguments = {**module, **kwargs}
    name = arguments.pop("type", None)
    for provider in _PROVIDERS.get(registry.name, ()):
        importlib.import_module(provider)
    builder = registry.get(name) if isinstance(name, str) else None
    if builder is None:
        raise ValueError(f"unknown {registry.name} type {name!r}; {suggest(name, registry.module_dict)}")
    return builder(**arguments)
