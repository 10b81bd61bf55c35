"""AdaCache as a hook of diffusers, at the root of a transformer."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from diffusers.hooks.hooks import HookRegistry, ModelHook, StateManager
from torch import nn

from adacache.integrations.diffusers.forward import CachedForward
from adacache.integrations.diffusers.runs import Runs

HOOK_NAME = "adacache"
NO_CONTEXT = "default"  # of pipelines that do not say which guidance half they call for


class CurrentContext(StateManager):
    """The name that a pipeline gives its next call by `cache_context`; diffusers sets it on hooks' state managers."""

    def __init__(self) -> None:
        super().__init__(dict)
        self.name = NO_CONTEXT

    def set_context(self, context: Any) -> None:
        """`context` is a name, an object with one, or None at its end; it depends on the version of diffusers."""
        self.name = NO_CONTEXT if context is None else getattr(context, "name", context)

    def reset(self, *args: Any, **kwargs: Any) -> None:
        """Nothing but the name is kept."""
        self.name = NO_CONTEXT


class AdaCacheHook(ModelHook):
    """Takes the place of a transformer's forward; all state is that of `runs`, which other transformers may share."""

    _is_stateful = True  # so that diffusers sets contexts, and says when a pipeline is done

    def __init__(self, cached: CachedForward, runs: Runs) -> None:
        super().__init__()
        self.context = CurrentContext()
        self._cached = cached
        self._runs = runs
        self._signature = inspect.signature(type(cached.transformer).forward)

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """What diffusers calls in place of the transformer's forward."""
        arguments = self._signature.bind(module, *args, **kwargs).arguments
        arguments.pop(next(iter(self._signature.parameters)))
        try:
            controller = self._runs.enter(module, self.context.name, arguments["hidden_states"])
            output = self._cached(controller, self.fn_ref.original_forward, self.context.name, arguments)
        except BaseException:
            self._runs.abort()
            raise
        self._runs.leave()
        return output

    def reset_state(self, module: nn.Module) -> nn.Module:
        """A pipeline is done."""
        self._runs.finish()
        self.context.reset()
        return module


def hook(cached: Sequence[CachedForward], runs: Runs) -> None:
    """Hook transformers that share `runs`."""
    for forward in cached:
        registry = HookRegistry.check_if_exists_or_initialize(forward.transformer)
        registry.register_hook(AdaCacheHook(forward, runs), HOOK_NAME)


def unhook(transformer: nn.Module) -> None:
    """Leave a transformer as if it had never been hooked."""
    registry = transformer._diffusers_hook
    offloading = transformer.forward if hasattr(transformer, "_hf_hook") else None
    registry.remove_hook(HOOK_NAME, recurse=False)
    if offloading is not None:
        # accelerate wrapped the hooked forward, and goes on with the one below.
        transformer._old_forward, transformer.forward = transformer.forward, offloading
    if registry.hooks:
        return
    del transformer._diffusers_hook
    # diffusers puts the method back as an attribute of the object, where it would stand before that of the class.
    forward = transformer.__dict__.get("forward")
    if getattr(forward, "__func__", None) is type(transformer).forward:
        del transformer.forward


def is_installed(transformer: nn.Module) -> bool:
    """Whether AdaCache hooks a transformer."""
    registry = getattr(transformer, "_diffusers_hook", None)
    return registry is not None and HOOK_NAME in registry.hooks


def check_no_other_cache(transformer: nn.Module) -> None:
    """Raises: ValueError when another cache works on a transformer, which would see AdaCache's reused steps."""
    kind = type(transformer).__name__
    config = getattr(transformer, "_cache_config", None)
    if config is not None:
        raise ValueError(
            f"this {kind} is cached by diffusers already ({type(config).__name__}); call transformer.disable_cache() "
            "before apply_adacache"
        )
    if getattr(transformer, "_is_cached", False):
        raise ValueError(f"this {kind} is cached by cache-dit already; call cache_dit.disable_cache(pipe) first")
    for name, module in transformer.named_modules():
        registry = getattr(module, "_diffusers_hook", None)
        others = (
            []
            if registry is None
            else [found for found, hook in registry.hooks.items() if hook._is_stateful and found != HOOK_NAME]
        )
        if others:
            where = f" at {name}" if name else ""
            raise ValueError(f"this {kind} has the cache hook '{others[0]}'{where}; remove it before apply_adacache")
