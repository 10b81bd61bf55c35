"""One forward pass of a diffusers transformer under a step controller."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from adacache.controller import StepController
from adacache.integrations.diffusers.family import BlockList, Family, find_family, from_tokens, tokens_of
from adacache.sites import Site


class CachedForward:
    """Runs a transformer of diffusers with its blocks handed to `StepController.stack`.

    The transformer's own forward runs with a stand-in for its blocks, which embeds the input before it and makes the
    output after it. The stand-in hands its hidden states to the controller; where they are to be computed, the
    transformer's own forward runs within it, this time with its blocks, and only what they give is taken over. So no
    line of the model is repeated here, any of a batch's videos can be computed without the others, and a computed step
    costs the embedding of its input and its last layer twice, which is little beside the blocks.

    Between calls nothing about the transformer is changed.

    Raises: ValueError when the transformer belongs to no known family, or its blocks are not the family's.
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
    ) -> Any:
        """What `forward(**arguments)` returns, with blocks computed or reused as `controller` decides.

        `forward` is the transformer's own; `arguments` are named as in its signature. `context` tells apart calls of
        one step, such as those with and without the prompt.

        Raises: RuntimeError outside of a run; otherwise as `StepController.stack`.
        """
        family, own_lists = self.family, self._lists()
        first = family.lists[0]
        latents = arguments["hidden_states"]
        num_frames = family.num_frames(self.transformer.config, arguments)

        def run_stack(hidden_states: Tensor) -> Tensor:
            tokens = tokens_of(hidden_states, first.layout, len(latents), num_frames)

            def run_blocks(_: Tensor, rows: Tensor | None = None) -> Tensor:
                chosen = arguments if rows is None else _rows_of(arguments, family.rows, rows, len(latents))
                with _with_lists(self.transformer, own_lists):
                    return self._run_blocks(controller, forward, chosen, num_frames)

            signals = {"latents": lambda: latents.movedim(family.frames_dim, 1)}
            result = controller.stack(tokens.flatten(1, 2), run_blocks, tokens.shape[2], context, signals)
            return from_tokens(result, hidden_states, first.layout)

        stand_in = _StandIn(run_stack, family.returns_text)
        # A family with a bypass goes through its lists in pairs: the others must not be empty.
        replaced = {} if family.bypass else {name: nn.ModuleList() for name in own_lists}
        with _with_lists(self.transformer, {**replaced, first.name: nn.ModuleList([stand_in])}):
            output = forward(**{**arguments, **family.bypass})

        def replace_output(sample: Tensor) -> Tensor:
            inputs, outputs = (tensor.movedim(family.channels_dim, 1) for tensor in (latents, sample))
            return controller.output(inputs, outputs, context).movedim(1, family.channels_dim)

        return _with_sample(output, replace_output)

    def _lists(self) -> dict[str, nn.ModuleList]:
        return {blocks.name: getattr(self.transformer, blocks.name) for blocks in self.family.lists}

    def _run_blocks(
        self, controller: StepController, forward: Callable[..., Any], arguments: Mapping[str, Any], num_frames: int
    ) -> Tensor:
        """Hidden states (B, N, C) after the last block that runs in `forward(**arguments)`."""
        num_videos = len(arguments["hidden_states"])
        last: list[Tensor] = []

        def keeper(blocks: BlockList) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
            def keep(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
                last[:] = [tokens_of(_hidden_states_of(output), blocks.layout, num_videos, num_frames)]

            return keep

        def taker(site: Site, blocks: BlockList) -> Callable[[Callable[[], Tensor]], Tensor]:
            return lambda residual: controller.branch(
                site, lambda: tokens_of(residual(), blocks.layout, num_videos, num_frames)
            )

        with ExitStack() as watching:
            for blocks in self.family.lists:
                modules = getattr(self.transformer, blocks.name)
                handles = [modules[-1].register_forward_hook(keeper(blocks))] if len(modules) else []
                for site in controller.observed_sites:
                    if blocks.residual is not None and site.stream in blocks.streams and site.part == "attn":
                        handles += blocks.residual.watch(modules[site.block], taker(site, blocks))
                for handle in handles:
                    watching.callback(handle.remove)
            forward(**arguments)
        return last.pop().flatten(1, 2)


class _StandIn(nn.Module):
    """Takes the place of all blocks; where these also return the text's states, they go on as they are."""

    def __init__(self, run_stack: Callable[[Tensor], Tensor], returns_text: bool) -> None:
        super().__init__()
        self._run_stack = run_stack
        self._returns_text = returns_text

    def forward(self, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor, Tensor]:
        """As a block: the first arguments are its hidden states and the text's, by place or by name."""
        named = dict(zip(("hidden_states", "encoder_hidden_states"), args, strict=False)) | kwargs
        result = self._run_stack(named["hidden_states"])
        return (result, named["encoder_hidden_states"]) if self._returns_text else result


def _hidden_states_of(output: Any) -> Tensor:
    """Of what a block returns: its hidden states, or these and the text's."""
    return output[0] if isinstance(output, tuple) else output


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
