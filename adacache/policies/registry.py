"""All policies by the names they have in configs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from adacache.policies.base import PolicyConfig
from adacache.validation import check_choice


def load(place: str) -> Any:
    """Return what "module:name" refers to; the module is imported now."""
    module, name = place.split(":")
    return getattr(import_module(module), name)


# Config classes by name, as "module:class": a module is imported when its policy is asked for, as most runs use one.
POLICIES = {
    "adacache": "adacache.policies.adacache:AdaCacheConfig",
    "static": "adacache.policies.static:StaticScheduleConfig",
    "multistep": "adacache.policies.multistep:MultistepConfig",
    "fixed": "adacache.policies.fixed:FixedIntervalConfig",
    "magcache": "adacache.policies.magcache:MagCacheConfig",
    "taylorseer": "adacache.policies.taylorseer:TaylorSeerConfig",
    "teacache": "adacache.policies.teacache:TeaCacheConfig",
    "fbcache": "adacache.policies.fbcache:FBCacheConfig",
    "easycache": "adacache.policies.easycache:EasyCacheConfig",
    "seacache": "adacache.policies.seacache:SeaCacheConfig",
    "pab": "adacache.policies.pab:PABConfig",
}


def config_class(name: str) -> type[PolicyConfig]:
    """Return the config class of the policy of that name."""
    return load(POLICIES[name])


def name_of(config: object) -> str | None:
    """Return the name of a config's policy without importing any; None if it is none of `POLICIES`."""
    place = f"{type(config).__module__}:{type(config).__qualname__}"
    return next((name for name, known in POLICIES.items() if known == place), None)


def config_from_dict(options: Mapping[str, Any]) -> PolicyConfig | None:
    """Return the config of the policy that `options` name under "policy"; the other entries are its own options.

    Without a name, options with `computed_steps` are a static schedule, all others AdaCache's. The official AdaCache
    option `do_cache=False` gives None: no caching.

    Raises:
        ValueError: the policy or an option is unknown, an option is missing, or a value is wrong.
    """
    own = {key: value for key, value in options.items() if key != "policy"}
    if "policy" not in options and (near := get_close_matches("policy", map(str, own), n=1, cutoff=0.8)):
        raise ValueError(f"unknown option '{near[0]}', did you mean 'policy'?")
    name = options.get("policy", "static" if "computed_steps" in own else "adacache")
    check_choice("policy", name, POLICIES)
    cls = config_class(name)
    known = {field.name: field for field in fields(cls)}
    missing = [key for key, field in known.items() if field.default is MISSING and key not in own]
    if missing and known.keys() >= own.keys():  # else an unknown option may be the missing one, misspelled
        raise ValueError(f"policy '{name}' needs {', '.join(missing)}")
    return cls.from_dict(own)


def config_to_dict(config: PolicyConfig) -> dict[str, Any]:
    """Return a policy's name and options as plain values; `config_from_dict` reads them back.

    Raises:
        ValueError: the policy is none of `POLICIES`, as when it was defined elsewhere.
    """
    name = name_of(config)
    if name is None:
        raise ValueError(f"{type(config).__name__} is not one of the policies {', '.join(POLICIES)}")
    return {"policy": name, **config.to_dict()}
