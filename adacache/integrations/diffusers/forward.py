"""One forward pass of a diffusers transformer under a step controller."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn

from adacache.controller import StepController
from adacache.integrations.diffusers.families import find_family
from adacache.integrations.diffusers.family import Family, Layout, from_tokens, tokens_of
from adacache.sites import Site


class CachedForward:
    """Runs a transformer of diffusers with its blocks passed to `StepController.stack`.

    The transformer's own forward embeds the input, calls a stand-in for its blocks and makes the output from the
    result. The stand-in passes the hidden states to the controller. If they are to be computed, the transformer's own
    forward runs again within the stand-in, this time with the blocks, and only what these return is used. So no line of
    the model is repeated here, and any of a batch's videos can be computed without the others. A computed step pays
    twice for the embedding of its input and for its last layer, which is little beside the blocks. Modules that only
    serve the blocks get stand-ins, too.

    Blocks may be compiled; those that are measured run uncompiled, since compiled code ignores the hooks that measure.
    Between calls the transformer is unchanged.

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
    ) -> Any:
        """Return what `forward(**arguments)` returns, with blocks computed or reused as `controller` decides.

        `forward` is the transformer's own; `arguments` are named as in its signature. `context` distinguishes the calls
        of one step, such as those with and without the prompt.

        Raises:
            RuntimeError: outside of a run, or as in `StepController.stack`.
        """
        family, own = self.family, self._block_modules()
        first = family.lists[0]
        denoised = family.denoised(self.transformer, arguments)
        contexts = [context, f"{context}, audio"][: len(denoised)]
        channels_dims = (family.channels_dim, 2)
        as_tuple = arguments.get("return_dict", True) is False
        if as_tuple or len(denoised) == 1:
            held = [controller.held_output(name, modality) for modality, name in enumerate(contexts)]
            if held[0] is not None:
                outputs = tuple(output.movedim(1, dim) for output, dim in zip(held, channels_dims, strict=False))
                return outputs if as_tuple else Transformer2DModelOutput(sample=outputs[0])
        num_videos, (num_frames, num_tokens) = len(denoised[0]), family.size(self.transformer, arguments)
        # Copies, as loops may change latents in place.
        signals = {"latents": lambda: tuple(latents.transpose(1, 2).clone() for latents in denoised)}

        def run_stack(hidden_states: Tensor, audio: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
            tokens = tokens_of(hidden_states, first.layout, num_videos, num_frames, num_tokens)
            of_audio: list[Any] = []

            def run_blocks(_: Tensor, rows: Tensor | None = None) -> Tensor:
                chosen = arguments if rows is None else _rows_of(arguments, family.rows, rows, num_videos)
                states, *of_audio[:] = self._run_blocks(controller, forward, chosen, own, num_frames, num_tokens)
                return states

            def take_audio(_: Tensor, rows: Tensor | None = None) -> Tensor:
                states, residuals = of_audio
                for site, residual in residuals:
                    controller.branch(site, lambda residual=residual: residual)
                return states

            result = controller.stack(tokens.flatten(1, 2), run_blocks, tokens.shape[2], context, signals)
            if audio is not None:
                audio = controller.stack(audio, take_audio, 1, contexts[1], signals, modality=1)
            return from_tokens(result, hidden_states, first.layout), audio

        stand_in = _StandIn(run_stack, family, own)
        with _with_modules(self.transformer, self._stand_ins(own, stand_in)):
            output = forward(**{**arguments, **family.bypass})

        def replace_output(modality: int, sample: Tensor) -> Tensor:
            dim = channels_dims[modality]
            outputs = sample.movedim(dim, 1)
            return controller.output(denoised[modality], outputs, contexts[modality], modality).movedim(1, dim)

        return _with_samples(output, [partial(replace_output, modality) for modality in range(len(denoised))])

    def num_modalities(self, arguments: Mapping[str, Any]) -> int:
        """Return how many modalities a call denoises: one, or two with a sound."""
        return len(self.family.denoised(self.transformer, arguments))

    def _block_modules(self) -> dict[str, nn.Module]:
        """Return the transformer's lists of blocks, and the modules that only serve the blocks if it has any."""
        names = [*(blocks.name for blocks in self.family.lists), *self.family.aside]
        return {name: getattr(self.transformer, name) for name in names if hasattr(self.transformer, name)}

    def _stand_ins(self, own: Mapping[str, nn.Module], stand_in: _StandIn) -> dict[str, nn.Module]:
        """Return what replaces the `own` modules while the blocks are left out."""
        family = self.family
        # The forward of a family with a bypass takes blocks from its lists in pairs, so no list may be empty.
        replaced = {} if family.bypass else {blocks.name: nn.ModuleList() for blocks in family.lists}
        for name in family.aside.keys() & own.keys():
            aside = _Aside(family.aside[name])
            replaced[name] = nn.ModuleList([aside]) if isinstance(own[name], nn.ModuleList) else aside
        return {**replaced, family.lists[0].name: nn.ModuleList([stand_in])}

    def _run_blocks(
        self,
        controller: StepController,
        forward: Callable[..., Any],
        arguments: Mapping[str, Any],
        own: Mapping[str, nn.Module],
        num_frames: int,
        num_tokens: int | None,
    ) -> tuple[Tensor, Tensor | None, list[tuple[Site, Tensor]]]:
        """Run `forward(**arguments)` with its blocks, and return their results.

        These are the hidden states (B, N, C) after the last block, those of the sound or None, and the residuals of the
        sound's measured branches.
        """
        family, num_videos = self.family, len(arguments["hidden_states"])
        last: list[Any] = []
        of_audio: list[tuple[Site, Tensor]] = []

        def keep(layout: Layout, output: Any) -> None:
            states, second = output if isinstance(output, tuple) else (output, None)
            last[:] = [tokens_of(states, layout, num_videos, num_frames, num_tokens).flatten(1, 2), second]

        def take(site: Site, layout: Layout, residual: Callable[[], Tensor]) -> None:
            controller.branch(site, lambda: tokens_of(residual(), layout, num_videos, num_frames, num_tokens))

        with ExitStack() as stack:
            modules = dict(own)
            for blocks in family.lists:
                all_blocks = own[blocks.name]
                ends = [_Shown(block, partial(keep, blocks.layout)) for block in all_blocks[-1:]]
                modules[blocks.name] = nn.ModuleList([*all_blocks[:-1], *ends])
                for site in controller.observed_sites:
                    if blocks.residual is not None and site.stream in blocks.streams and site.part == "attn":
                        block = all_blocks[site.block]
                        stack.enter_context(_not_compiled(block))
                        handles = [*blocks.residual.watch(block, partial(take, site, blocks.layout))]
                        if blocks.audio_residual is not None:
                            # Computed at once: with offloading, the block's weights are loaded only while it runs.
                            handles += blocks.audio_residual.watch(
                                block, lambda make, site=site: of_audio.append((site, make()))
                            )
                        for handle in handles:
                            stack.callback(handle.remove)
            stack.enter_context(_with_modules(self.transformer, modules))
            forward(**_without_lora_scale(arguments))
        states, second = last
        return states, second if family.audio else None, of_audio


class _Shown(nn.Module):
    """Runs a block, and passes its output to a function."""

    def __init__(self, block: nn.Module, show: Callable[[Any], object]) -> None:
        super().__init__()
        self.block = block
        self._show = show

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the block, and show its output."""
        output = self.block(*args, **kwargs)
        self._show(output)
        return output


class _StandIn(nn.Module):
    """Takes the place of all blocks; if these also return the text's hidden states, it returns them unchanged.

    It holds the modules that it replaces, so that operations on all modules of the transformer reach them, too.

    Args:
        run: computes the hidden states after the blocks, and those of a sound, from those before.
    """

    def __init__(
        self, run: Callable[..., tuple[Tensor, Tensor | None]], family: Family, stands_for: Mapping[str, nn.Module]
    ) -> None:
        super().__init__()
        self._run = run
        self._family = family
        self.stands_for = nn.ModuleDict(stands_for)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor, Tensor | None]:
        """Run in place of the blocks; hidden states, and those of the sound or text, come by position or by name."""
        second = self._family.audio or "encoder_hidden_states"
        named = dict(zip(("hidden_states", second), args, strict=False)) | kwargs
        states, audio = self._run(named["hidden_states"], named[second] if self._family.audio else None)
        if self._family.audio:
            return states, audio
        return (states, named[second]) if self._family.returns_text else states


class _Aside(nn.Module):
    """Takes the place of a module that only serves the blocks, at no cost."""

    def __init__(self, result: Callable[..., Any]) -> None:
        super().__init__()
        self._result = result

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the replacement of the module's result; takes the module's arguments."""
        return self._result(*args, **kwargs)


def _without_lora_scale(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return `arguments` for a forward within another one, which has already scaled the LoRAs of all layers."""
    options = arguments.get("attention_kwargs")
    if not options:
        return dict(arguments)
    return {**arguments, "attention_kwargs": {name: value for name, value in options.items() if name != "scale"}}


@contextmanager
def _not_compiled(block: nn.Module) -> Iterator[None]:
    """Disable the compiled code of a block and its submodules for a while: it ignores hooks that come and go."""
    compiled = {module: module._compiled_call_impl for module in block.modules() if module._compiled_call_impl}
    try:
        for module in compiled:
            module._compiled_call_impl = None
        yield
    finally:
        for module, call in compiled.items():
            module._compiled_call_impl = call


def _rows_of(arguments: Mapping[str, Any], names: tuple[str, ...], rows: Tensor, num_rows: int) -> dict[str, Any]:
    """Return `arguments` with only the given `rows` of the batch.

    An argument may have several consecutive rows for each of them.
    """
    chosen = dict(arguments)
    for name in chosen.keys() & names:
        value = chosen[name]
        if isinstance(value, list | tuple):
            chosen[name] = type(value)(_take_rows(part, rows, num_rows) for part in value)
        else:
            chosen[name] = _take_rows(value, rows, num_rows)
    return chosen


def _take_rows(value: Any, rows: Tensor, num_rows: int) -> Any:
    if not isinstance(value, Tensor) or not value.ndim or len(value) == 1:
        return value
    return value.unflatten(0, (num_rows, -1))[rows.to(value.device)].flatten(0, 1)


@contextmanager
def _with_modules(transformer: nn.Module, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Replace the transformer's modules of these names for a while."""
    before = {name: getattr(transformer, name) for name in modules}
    try:
        for name, module in modules.items():
            setattr(transformer, name, module)
        yield
    finally:
        for name, module in before.items():
            setattr(transformer, name, module)


def _with_samples(output: Any, changes: Sequence[Callable[[Tensor], Tensor]]) -> Any:
    """Return an output (a tensor, a tuple or an object with names) with each modality's sample changed."""
    if isinstance(output, Tensor):
        return changes[0](output)
    if isinstance(output, tuple) and not hasattr(output, "sample"):
        return (*(change(sample) for change, sample in zip(changes, output, strict=False)), *output[len(changes) :])
    names = ("sample", "audio_sample")
    return type(output)(**{name: change(output[name]) for name, change in zip(names, changes, strict=False)})
