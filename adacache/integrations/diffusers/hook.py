"""AdaCache as a hook of diffusers, at the root of a transformer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from threading import local
from typing import Any, NoReturn

import torch
from diffusers.hooks.hooks import HookFunctionReference, HookRegistry, ModelHook, StateManager
from torch import nn

from adacache.integrations.diffusers.forward import CachedForward
from adacache.integrations.diffusers.pipeline import HOOK_NAME, compiled_as_a_whole
from adacache.integrations.diffusers.runs import Call, Runs


class CurrentContext(StateManager):
    """What a pipeline says about its next call with `cache_context`; diffusers sets it on the hooks' state managers.

    Each thread has its own.
    """

    def __init__(self) -> None:
        super().__init__(dict)
        self._said = local()

    def set_context(self, context: Any) -> None:
        """Note a context: a name, an object with one, or None at its end, depending on the version of diffusers."""
        self._said.context = context

    def reset(self, *args: Any, **kwargs: Any) -> None:
        """Forget the context, the only state there is."""
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
    """Replaces a transformer's forward; all state is in `runs`, which other transformers may share.

    Attributes:
        outer: what is called in place of the transformer's own forward.
        had_forward: whether `forward` was an attribute of the transformer itself before the first hook.
        is_removed: whether it only passes calls on; what was wrapped around it may go on calling it.
    """

    _is_stateful = True  # so that diffusers sets contexts, and says when a pipeline is done

    def __init__(self, cached: CachedForward, runs: Runs) -> None:
        super().__init__()
        self.context = CurrentContext()
        self.outer: Callable[..., Any] | None = None
        self.had_forward = "forward" in vars(cached.transformer)
        self.is_removed = False
        self._cached = cached
        self._runs = runs
        self._signature = inspect.signature(type(cached.transformer).forward)

    @torch.compiler.disable
    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Run the transformer with the cache; diffusers calls this in place of its forward."""
        if self.is_removed:
            return self.fn_ref.original_forward(*args, **kwargs)
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
            has_own_time=self._cached.family.has_own_times,
            num_modalities=self._cached.num_modalities(arguments),
        )
        forward = self.fn_ref.original_forward
        with self._runs.lock:
            entered = self._runs.enter(call)
            if entered is None:
                return forward(*args, **kwargs)
            controller, half = entered
            try:
                output = self._cached(controller, forward, half, arguments)
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
            "call remove() of its handle first, and apply_adacache to the copy"
        )


def hook(cached: Sequence[CachedForward], runs: Runs) -> None:
    """Hook transformers that share `runs`, below all other hooks.

    So offloading may be enabled and removed before or after the hook, and still fetches weights before they are used.
    If one cannot be hooked, none is.
    """
    hooked = []
    for forward in cached:
        check_forward(forward.transformer)
    try:
        for forward in cached:
            _hook_one(forward.transformer, AdaCacheHook(forward, runs))
            hooked.append(forward.transformer)
    except BaseException:
        for transformer in hooked:
            unhook(transformer)
        raise


def _hook_one(transformer: nn.Module, added: AdaCacheHook) -> None:
    registry = HookRegistry.check_if_exists_or_initialize(transformer)
    own, outermost = _innermost(transformer), transformer.forward
    transformer.forward = own
    try:
        registry.register_hook(added, HOOK_NAME)
    except BaseException:
        transformer.forward = outermost
        raise
    added.outer, transformer.forward = transformer.forward, outermost
    for ordered in (registry._hook_order, registry._fn_refs):
        ordered.insert(0, ordered.pop())
    _replace(transformer, registry._fn_refs[1:], own, added.outer)


def unhook(transformer: nn.Module) -> None:
    """Remove the hook, and leave the transformer as if it had never been hooked."""
    registry = transformer._diffusers_hook
    index = registry._hook_order.index(HOOK_NAME)
    added = registry.hooks.pop(registry._hook_order.pop(index))
    registry._fn_refs.pop(index)
    added.is_removed = True
    _replace(transformer, registry._fn_refs, added.outer, added.fn_ref.original_forward)
    if registry.hooks:
        return
    del transformer._diffusers_hook
    # An attribute of the object would hide the method of the class.
    forward = vars(transformer).get("forward")
    is_own = not added.had_forward and forward == added.fn_ref.original_forward
    if is_own or getattr(forward, "__func__", None) is type(transformer).forward:
        del transformer.forward


def check_forward(transformer: nn.Module) -> None:
    """Refuse, with a ValueError, a transformer whose own forward was replaced or compiled, in the object or its class.

    A patch such as TeaCache's would be called twice in a computed step, for what is around the blocks and for them.
    """
    kind = type(transformer)
    for forward in (_innermost(transformer), kind.forward):
        if hasattr(forward, "_torchdynamo_orig_callable"):
            raise compiled_as_a_whole(kind)
        function = inspect.unwrap(getattr(forward, "__func__", forward))
        if getattr(function, "__module__", None) not in {base.__module__ for base in kind.__mro__}:
            name = getattr(function, "__qualname__", repr(function))
            raise ValueError(
                f"the forward of this {kind.__name__} was replaced by {name}, as TeaCache's patches do; restore it "
                "before apply_adacache, or wrap it afterwards"
            )


def _innermost(transformer: nn.Module) -> Callable[..., Any]:
    """Return the transformer's own forward, below the hooks of diffusers or accelerate."""
    registry = getattr(transformer, "_diffusers_hook", None)
    references = [] if registry is None else registry._fn_refs
    if references:
        return references[0].original_forward or references[0].forward
    return getattr(transformer, "_old_forward", transformer.forward)  # as accelerate keeps it


def _replace(
    transformer: nn.Module,
    references: Sequence[HookFunctionReference],
    old: Callable[..., Any],
    new: Callable[..., Any],
) -> None:
    """Make whatever calls `old`, a hook or the transformer itself, call `new`."""
    holders = [(transformer, "forward"), (transformer, "_old_forward")]
    holders += [(reference, name) for reference in references for name in ("forward", "original_forward")]
    for holder, name in holders:
        if getattr(holder, name, None) == old:
            setattr(holder, name, new)
