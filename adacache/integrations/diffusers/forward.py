"""One forward pass of a diffusers transformer under a step controller."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from adacache.controller import StepController
from adacache.integrations.diffusers.families import find_family
from adacache.integrations.diffusers.family import Family, Layout, from_tokens, tokens_of
from adacache.sites import Site


class CachedForward:
    """Runs a transformer of diffusers with its blocks handed to `StepController.stack`.

    The transformer's own forward runs with a stand-in for its blocks, which embeds the input before it and makes the
    output after it. The stand-in hands its hidden states to the controller; where they are to be computed, the
    transformer's own forward runs within it, this time with its blocks, and only what they give is taken over. So no
    line of the model is repeated here, any of a batch's videos can be computed without the others, and a computed step
    costs the embedding of its input and its last layer twice, which is little beside the blocks.

    Blocks may be compiled: those that are measured run as they were before, since a compiled one does not show what
    goes on in it. Between calls nothing about the transformer is changed.

    Raises:
        ValueError: the transformer belongs to no known family, or its blocks are not the family's.
    """

    def __init__(self, transformer: nn.Module, family: Family | None = None) -> None:
        self.transformer = transformer
        self.family = family or find_family(transformer)
        self.family.check(transformer)
        self.num_blocks = self.family.num_blocks(transformer)

    def __call__(
        self,
        controller: StepController,
        forward: Callable[..., Any],
        context: str,
        arguments: Mapping[str, Any],
        inner_forward: Callable[..., Any] | None = None,
    ) -> Any:
        """What `forward(**arguments)` returns, with blocks computed or reused as `controller` decides.

        `forward` is the transformer's own; `arguments` are named as in its signature. `context` tells apart calls of
        one step, such as those with and without the prompt. `inner_forward` is what runs within `forward`, where that
        does more than the transformer's own, such as to fetch weights.

        Raises:
            RuntimeError: outside of a run; otherwise as `StepController.stack`.
        """
        family, own_lists = self.family, self._lists()
        first = family.lists[0]
        latents = arguments["hidden_states"]
        if arguments.get("return_dict", True) is False:
            held = controller.held_output(context)
            if held is not None:
                return (held.movedim(1, family.channels_dim),)
        denoised = family.denoised(self.transformer, latents)
        num_frames = family.num_frames(self.transformer.config, arguments)

        def run_stack(hidden_states: Tensor) -> Tensor:
            tokens = tokens_of(hidden_states, first.layout, len(latents), num_frames)

            def run_blocks(_: Tensor, rows: Tensor | None = None) -> Tensor:
                chosen = arguments if rows is None else _rows_of(arguments, family.rows, rows, len(latents))
                return self._run_blocks(controller, inner_forward or forward, chosen, own_lists, num_frames)

            signals = {"latents": lambda: denoised.movedim(family.frames_dim, 1)}
            result = controller.stack(tokens.flatten(1, 2), run_blocks, tokens.shape[2], context, signals)
            return from_tokens(result, hidden_states, first.layout)

        stand_in = _StandIn(run_stack, family.returns_text, own_lists)
        # A family with a bypass goes through its lists in pairs: the others must not be empty.
        replaced = {} if family.bypass else {name: nn.ModuleList() for name in own_lists}
        with _with_lists(self.transformer, {**replaced, first.name: nn.ModuleList([stand_in])}):
            output = forward(**{**arguments, **family.bypass})

        def replace_output(sample: Tensor) -> Tensor:
            inputs, outputs = (tensor.movedim(family.channels_dim, 1) for tensor in (denoised, sample))
            return controller.output(inputs, outputs, context).movedim(1, family.channels_dim)

        return _with_sample(output, replace_output)

    def _lists(self) -> dict[str, nn.ModuleList]:
        return {blocks.name: getattr(self.transformer, blocks.name) for blocks in self.family.lists}

    def _run_blocks(
        self,
        controller: StepController,
        forward: Callable[..., Any],
        arguments: Mapping[str, Any],
        own_lists: Mapping[str, nn.ModuleList],
        num_frames: int,
    ) -> Tensor:
        """Hidden states (B, N, C) after the last block that runs in `forward(**arguments)`."""
        num_videos = len(arguments["hidden_states"])
        last: list[Tensor] = []

        def keep(hidden_states: Tensor, layout: Layout) -> Tensor:
            last[:] = [tokens_of(hidden_states, layout, num_videos, num_frames)]
            return hidden_states

        def take(residual: Callable[[], Tensor], site: Site, layout: Layout) -> None:
            controller.branch(site, lambda: tokens_of(residual(), layout, num_videos, num_frames))

        with ExitStack() as stack:
            lists = {}
            for blocks in self.family.lists:
                own = own_lists[blocks.name]
                end = _StandIn(partial(keep, layout=blocks.layout), self.family.returns_text)
                lists[blocks.name] = nn.ModuleList([*own, end])
                for site in controller.observed_sites:
                    if blocks.residual is not None and site.stream in blocks.streams and site.part == "attn":
                        stack.enter_context(_not_compiled(own[site.block]))
                        taker = partial(take, site=site, layout=blocks.layout)
                        for handle in blocks.residual.watch(own[site.block], taker):
                            stack.callback(handle.remove)
            stack.enter_context(_with_lists(self.transformer, lists))
            forward(**_without_lora_scale(arguments))
        return last.pop().flatten(1, 2)


class _StandIn(nn.Module):
    """Stands among the blocks, or for all of them; where blocks also return the text's states, these go on as they are.

    It holds the blocks that it stands for, so that what is done to all layers of the transformer reaches theirs, too.
    """

    def __init__(
        self,
        run: Callable[[Tensor], Tensor],
        returns_text: bool,
        stands_for: Mapping[str, nn.ModuleList] | None = None,
    ) -> None:
        super().__init__()
        self._run = run
        self._returns_text = returns_text
        self.stands_for = nn.ModuleDict(stands_for or {})

    def forward(self, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor, Tensor]:
        """As a block: the first arguments are its hidden states and the text's, by place or by name."""
        named = dict(zip(("hidden_states", "encoder_hidden_states"), args, strict=False)) | kwargs
        result = self._run(named["hidden_states"])
        return (result, named["encoder_hidden_states"]) if self._returns_text else result


def _without_lora_scale(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """`arguments` for a forward within another one, which has scaled the LoRAs of all layers already."""
    options = arguments.get("attention_kwargs")
    if not options:
        return dict(arguments)
    return {**arguments, "attention_kwargs": {name: value for name, value in options.items() if name != "scale"}}


@contextmanager
def _not_compiled(block: nn.Module) -> Iterator[None]:
    """A block and all in it as before `compile`: hooks that come and go are not seen by compiled code."""
    compiled = {module: module._compiled_call_impl for module in block.modules() if module._compiled_call_impl}
    try:
        for module in compiled:
            module._compiled_call_impl = None
        yield
    finally:
        for module, call in compiled.items():
            module._compiled_call_impl = call


def _rows_of(arguments: Mapping[str, Any], names: tuple[str, ...], rows: Tensor, num_rows: int) -> dict[str, Any]:
    """`arguments` with only those `rows` of the batch; an argument may have several for each, one after the other."""
    chosen = dict(arguments)
    for name in names:
        value = chosen.get(name)
        if isinstance(value, Tensor) and value.ndim and len(value) != 1:
            index = rows.to(value.device)
            chosen[name] = value.unflatten(0, (num_rows, -1))[index].flatten(0, 1)
    return chosen


@contextmanager
def _with_lists(transformer: nn.Module, lists: Mapping[str, nn.ModuleList]) -> Iterator[None]:
    """Other lists of blocks for a while."""
    before = {name: getattr(transformer, name) for name in lists}
    try:
        for name, modules in lists.items():
            setattr(transformer, name, modules)
        yield
    finally:
        for name, modules in before.items():
            setattr(transformer, name, modules)


def _with_sample(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """What a transformer returns, a tuple or an object with a `sample`, with that one changed."""
    if isinstance(output, tuple) and not hasattr(output, "sample"):
        return (change(output[0]), *output[1:])
    return type(output)(sample=change(output.sample))
