"""Registries that turn the `dict(type=..., ...)` entries of config files into objects.

Source: Open-Sora v1.2, `opensora/registry.py`; the registered names are upstream's.
"""

from __future__ import annotations

import importlib
import typing
from collections.abc import Mapping
from itertools import chain
from typing import Any

from mmengine.registry import Registry

from opensora.errors import suggest

MODELS = Registry("model")
SCHEDULERS = Registry("scheduler")

# Modules and the names they register when imported, which takes time and waits until a name is asked for.
_PROVIDERS = {
    "model": {
        "opensora.models.stdit.stdit3": ("STDiT3", "STDiT3-XL/2"),
        "opensora.models.latte": ("Latte", "LatteT2V"),
        "opensora.models.vae.vae": ("OpenSoraVAE_V1_2",),
        "opensora.models.vae.image_vae": ("AutoencoderKL",),
        "opensora.models.vae.causal": ("CausalVAE",),
        "opensora.models.text_encoder.t5": ("t5",),
    },
    "scheduler": {
        "opensora.schedulers.rf": ("rflow",),
        "opensora.schedulers.diffusion": ("ddim", "pndm", "euler", "heun"),
    },
}


def build_module(module: Mapping[str, Any], registry: Registry, **kwargs: Any) -> Any:
    """Build the object that `module["type"]` names, with the other entries and `kwargs` as arguments.

    Raises:
        ValueError: there is no `type`, or `registry` does not know it (the nearest name is suggested).
    """
    arguments = {**module, **kwargs}
    return _builder(arguments.pop("type", None), registry)(**arguments)


def model_class(name: str) -> Any:
    """Return the class of the models that `build_module` builds for a registered type; it reads their checkpoints."""
    return typing.get_type_hints(_builder(name, MODELS))["return"]


def _builder(name: Any, registry: Registry) -> Any:
    """Return what is registered under a name, after importing its module if need be."""
    providers = _PROVIDERS.get(registry.name, {})
    for module_name, names in providers.items():
        if name in names:
            importlib.import_module(module_name)
    builder = registry.get(name) if isinstance(name, str) else None
    if builder is None:
        known = sorted({*registry.module_dict, *chain.from_iterable(providers.values())})
        raise ValueError(f"unknown {registry.name} type {name!r}; {suggest(name, known)}")
    return builder
