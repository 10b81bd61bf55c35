"""AdaCache as a hook of diffusers, at the root of a transformer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from threading import local
from typing import Any, NoReturn

import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook, StateManager
from torch import nn

from adacache.integrations.diffusers.forward import CachedForward
from adacache.integrations.diffusers.pipeline import HOOK_NAME
from adacache.integrations.diffusers.runs import Call, Runs


class CurrentContext(StateManager):
    """What a pipeline says about its next call by `cache_context`; diffusers sets it on hooks' state managers.

    Each thread has its own.
    """

    def __init__(self) -> None:
        super().__init__(dict)
        self._said = local()

    def set_context(self, context: Any) -> None:
        """Note a context: a name, an object with one, or None at its end, depending on the version of diffusers."""
        self._said.context = context

    def reset(self, *args: Any, **kwargs: Any) -> None:
        """Forget the context, which is all that is kept."""
        self.set_context(None)

    def describe(self) -> dict[str, Any]:
        """Return the fields of a `Call` that a context can fill."""
        context = getattr(self._said, "context", None)
        return {
            "context": getattr(context, "name", context),
            "step_index": getattr(context, "step_index", None),
            "num_steps": getattr(context, "num_inference_steps", None),
        }


class AdaCacheHook(ModelHook):
    """Replaces a transformer's forward; all state is in `runs`, which other transformers may share."""

    _is_stateful = True  # so that diffusers sets contexts, and says when a pipeline is done

    def __init__(self, cached: CachedForward, runs: Runs) -> None:
        super().__init__()
        self.context = CurrentContext()
        self._cached = cached
        self._runs = runs
        self._signature = inspect.signature(type(cached.transformer).forward)

    @torch.compiler.disable
    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Run the transformer with the cache; diffusers calls this in place of its forward."""
        arguments = self._signature.bind(module, *args, **kwargs).arguments
        arguments.pop(next(iter(self._signature.parameters)))
        text = arguments.get("encoder_hidden_states")
        call = Call(
            module,
            arguments["hidden_states"],
            torch.as_tensor(arguments["timestep"]),
            text[0] if isinstance(text, list | tuple) else text,
            **self.context.describe(),
            batches_guidance=self._cached.family.batches_guidance,
            num_modalities=self._cached.num_modalities(arguments),
        )
        forward = self.fn_ref.original_forward
        with self._runs.lock:
            entered = self._runs.enter(call)
            if entered is None:
                return forward(*args, **kwargs)
            controller, half = entered
            try:
                output = self._cached(controller, forward, half, arguments, _innermost(module))
            except BaseException:
                self._runs.abort()
                raise
            self._runs.leave()
            return output

    def reset_state(self, module: nn.Module) -> nn.Module:
        """End the run; diffusers calls this when a pipeline is done."""
        with self._runs.lock:
            self._runs.finish()
        self.context.reset()
        return module

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse, with a TypeError, to be copied: a copied hook would run the original's weights."""
        raise TypeError(
            f"a {type(self._cached.transformer).__name__} cannot be copied or pickled while AdaCache is applied to it; "
            "call remove() of its handle before, and apply_adacache to the copy"
        )


def _innermost(transformer: nn.Module) -> Callable[..., Any]:
    """Return the transformer's own forward, below all hooks.

    Hooks around the current call, such as group offloading's, are already in effect.
    """
    reference = transformer._diffusers_hook._fn_refs[0]
    return reference.original_forward or reference.forward


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
        # accelerate wrapped the hooked forward, and now wraps the one below.
        transformer._old_forward, transformer.forward = transformer.forward, offloading
    if registry.hooks:
        return
    del transformer._diffusers_hook
    # diffusers puts the method back as an attribute of the object, where it would hide that of the class.
    forward = transformer.__dict__.get("forward")
    if getattr(forward, "__func__", None) is type(transformer).forward:
        del transformer.forward
