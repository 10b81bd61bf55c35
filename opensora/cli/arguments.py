"""The command line of the sampler: Open-Sora v1.2's flags, each of which overrides a config entry."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from opensora.environment import command_line
from opensora.errors import one_line, shortened, suggest
from opensora.files import find_path, is_utf8, printable

DEFAULT_CONFIG = "configs/mini/sample_adacache.py"
_SAMPLES = "Sample videos from text with Open-Sora v1.2 and AdaCache."


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one sentence on stderr and exit code 2, like all errors of the commands."""

    def error(self, message: str) -> NoReturn:
        """End the program with `message`."""
        self.exit(2, f"error: command line: {shortened(message, 400)} (--help lists the flags)\n")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        """Parse the arguments; the error about an unknown flag names the nearest one."""
        args = sys.argv[1:] if args is None else args
        for text in args:
            if not is_utf8(text):
                self.error(
                    f"'{printable(text)}' has bytes that are not UTF-8; save the script, or name the file, as UTF-8"
                )
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]
            is_flag = unknown[0].startswith("-")
            hint = suggest(unknown[0].partition("=")[0], flags) if is_flag else "put a text of several words in quotes"
            self.error(f"unknown argument '{unknown[0]}'; {hint}")
        return parsed


class Prompts(argparse.Action):
    """Collect `TEXT ...`, which may be given several times; refuse the words of a prompt without its quotes."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: Any = None,
    ) -> None:
        """Add the prompts to those given before."""
        if len(values) > 1 and all(len(value.split()) == 1 and not value.endswith(".py") for value in values):
            text = " ".join(values)
            parser.error(
                f"{option_string} got the single words {', '.join(values)}; put a prompt in quotes, {option_string} "
                f'"{text}", and give each one-word prompt its own {option_string}'
            )
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or []), *values])


class CfgOptions(argparse.Action):
    """Collect `KEY=VALUE ...` in mmengine's value syntax: numbers, True, None, `1,2`, `[1,(2,3)]`, text."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: Any = None,
    ) -> None:
        """Add the options to those given before."""
        from mmengine.config import DictAction

        options = dict(getattr(namespace, self.dest) or {})
        for text in values:
            key, equals, value = text.partition("=")
            if not (key and equals):
                parser.error(f"--cfg-options takes KEY=VALUE, got '{text}'")
            if " " in value.strip() and not value.strip().startswith(("[", "(")):
                options[key] = value  # a sentence; mmengine would remove its spaces
                continue
            single = argparse.Namespace()
            try:
                DictAction([], self.dest)(parser, single, [text])
            except (AssertionError, ValueError) as error:
                parser.error(f"--cfg-options {key} has a value that cannot be read: {one_line(error)}")
            options.update(getattr(single, self.dest))
        setattr(namespace, self.dest, options)


def text_to_bool(text: str) -> bool:
    """Parse a boolean as upstream writes it on the command line: `True`, `False`, or a synonym such as `yes` or `0`.

    Raises:
        argparse.ArgumentTypeError: `text` is not such a word.
    """
    word = text.lower()
    if word in ("true", "t", "yes", "y", "1"):
        return True
    if word in ("false", "f", "no", "n", "0"):
        return False
    raise argparse.ArgumentTypeError(f"expected True or False, got '{text}'")


def build_parser(description: str = _SAMPLES) -> OneLineParser:
    """Return the parser of the sampler's flags; a flag that is not given is None and overrides nothing.

    Args:
        description: what the command does that takes them.
    """
    parser = OneLineParser(
        description=description,
        epilog="Every flag overrides the config entry of its name; --cfg-options reaches all entries. "
        'Examples: %(prog)s configs/mini/sample_adacache.py --prompt "a bouncing red star"; '
        "%(prog)s configs/mini/sample.py --speedup 2",
        allow_abbrev=False,
    )
    parser.add_argument("config", nargs="?", help=f"config file (default: {DEFAULT_CONFIG})")
    _add_prompt_flags(parser)
    _add_video_flags(parser)
    _add_target_flags(parser)
    _add_draft_flags(parser)
    _add_sampling_flags(parser)
    _add_output_flags(parser)
    _add_reference_flags(parser)
    _add_memory_flags(parser)
    _add_process_flags(parser)
    return parser


def parse_arguments(
    arguments: Sequence[str] | None = None, description: str = _SAMPLES
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return the config path, the flags by name, and the dotted `--cfg-options`."""
    parser = build_parser(description)
    flags = vars(parser.parse_args(arguments))
    for text in flags["prompt"] or []:
        if text.endswith(".py") and find_path(text):
            parser.error(f"'{text}' was taken as a prompt; put the config file before the flags")
    path = flags.pop("config")
    if path is not None and flags["from_sidecar"] is not None:
        parser.error(f"--from-sidecar takes its settings from that file; leave out the config '{path}'")
    if flags["words"] and flags["from_sidecar"] is not None:
        parser.error("--words tells of a config's model; leave out --from-sidecar")
    return DEFAULT_CONFIG if path is None else path, flags, flags.pop("cfg_options") or {}


def _add_switch(group: Any, flag: str, text: str) -> None:
    group.add_argument(flag, type=text_to_bool, nargs="?", const=True, metavar="BOOL", help=text)


def _add_prompt_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("prompts")
    group.add_argument("--prompt", nargs="+", action=Prompts, metavar="TEXT", help="one or more prompts, in quotes")
    group.add_argument(
        "--prompt-path",
        metavar="FILE",
        help="one prompt per line, or .csv, .json or .jsonl with settings for each; - reads standard input",
    )
    group.add_argument(
        "--words", action="store_const", const=True, help="print what the model of the config was trained on, and exit"
    )
    group.add_argument("--negative-prompt", metavar="TEXT", help="what to guide away from (Latte, Open-Sora-Plan)")
    group.add_argument("--start-index", type=int, metavar="N", help="first prompt of the file, counted from 0")
    group.add_argument("--end-index", type=int, metavar="N", help="prompt of the file to stop before")
    group.add_argument(
        "--aes", type=float, metavar="SCORE", help="aesthetic score appended to the prompts, about 4 to 7"
    )
    group.add_argument("--flow", type=float, metavar="SCORE", help="motion score appended to the prompts")
    group.add_argument("--camera-motion", metavar="TEXT", help="camera motion appended to the prompts")
    _add_switch(group, "--llm-refine", "rewrite prompts with the language model at --llm-endpoint")
    group.add_argument(
        "--llm-endpoint", metavar="URL", help="OpenAI-compatible server, such as http://localhost:8000/v1"
    )
    group.add_argument("--llm-model", metavar="NAME", help="the model to ask for there (key: OPENAI_API_KEY)")


def _add_video_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("video")
    group.add_argument("--resolution", metavar="NAME", help="144p, 240p, 360p, 480p, 720p, ...")
    group.add_argument("--aspect-ratio", metavar="H:W", help="height:width, so 9:16 is landscape")
    group.add_argument("--image-size", type=int, nargs=2, metavar=("H", "W"), help="pixels, instead of the two above")
    group.add_argument("--num-frames", metavar="N", help="2s, 4s, 8s, 16s, or a number of frames")
    group.add_argument("--fps", type=int, metavar="N", help="frame rate of the video; Open-Sora is told")
    group.add_argument(
        "--save-fps", type=int, metavar="N", help="frame rate of the mp4 (default: fps / frame interval)"
    )
    group.add_argument("--frame-interval", type=int, metavar="N", help="a slower mp4: divides fps")


def _add_target_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        f"target of the cache (one of these, by a calibration; see {command_line('calibrate')})"
    )
    group.add_argument("--speedup", type=float, metavar="X", help="denoise X times as fast as with every step computed")
    group.add_argument("--max-steps-computed", type=int, metavar="N", help="compute at most N steps of every video")
    group.add_argument(
        "--min-psnr",
        type=float,
        metavar="DB",
        help="keep a mean PSNR of DB or more to what the calibration aims at: the video without reuse, or the solution",
    )
    group.add_argument("--calibration", metavar="FILE", help=f"what '{command_line('calibrate')}' wrote for this model")


def _add_draft_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("draft, then final (a target above replaces the cache strength of both)")
    group.add_argument("--draft", type=int, metavar="N", help="N quick drafts of each prompt, and a contact sheet")
    group.add_argument(
        "--final",
        nargs="+",
        metavar="SEED",
        help="render the chosen seeds in good quality: for every prompt, or with i:SEED for prompt i only",
    )


def _add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling")
    group.add_argument("--num-sampling-steps", type=int, metavar="N", help="denoising steps")
    group.add_argument(
        "--solver", metavar="NAME", help="euler, adams or midpoint, of Open-Sora; the model is called once per step"
    )
    group.add_argument("--cfg-scale", type=float, metavar="X", help="strength of classifier-free guidance")
    group.add_argument("--seed", type=int, metavar="N", help="prompt i is sampled with seed N + i")
    group.add_argument("--batch-size", type=int, metavar="N", help="prompts sampled together")
    group.add_argument(
        "--replay", metavar="FILE", help="compute the same steps as the run of this trace (.json), measure nothing"
    )
    group.add_argument("--dtype", metavar="TYPE", help="bf16, fp16 or fp32")
    group.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N (default: CUDA when there is one)")
    _add_switch(group, "--compile", "compile the transformer: slower first steps, faster others")
    group.add_argument("--ckpt-path", metavar="PATH", help="folder, weight file or hub repository of the transformer")
    _add_switch(group, "--flash-attn", "accepted for existing scripts; PyTorch's attention is always used")
    _add_switch(group, "--layernorm-kernel", "accepted for existing scripts; PyTorch's layer norm is always used")
    group.add_argument(
        "--cfg-options",
        nargs="+",
        action=CfgOptions,
        metavar="KEY=VALUE",
        help="any entry: cache.metric=s-attn",
    )


def _add_output_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("output")
    group.add_argument("--save-dir", metavar="DIR", help="folder of the results (default: samples/CONFIG/FLAGS)")
    _add_switch(group, "--logdate-dir", "write into a subfolder named by date and time")
    group.add_argument("--sample-name", metavar="NAME", help="start of the file names (default: sample)")
    _add_switch(group, "--prompt-as-path", "name files by their prompt")
    group.add_argument(
        "--num-sample", type=int, metavar="N", help="videos per prompt; the seed of the k-th is 1048576 * k higher"
    )
    _add_switch(group, "--resample", "sample again what the folder already holds")
    _add_switch(group, "--save-frames", "also the exact frames, in an npz file")
    group.add_argument("--preview", metavar="KIND", help="also an animated picture: webp or apng")
    _add_switch(group, "--contact-sheet", "also one picture of all videos of the run")
    group.add_argument("--crf", type=int, metavar="N", help="quality of the mp4, 0 (best) to 51 (smallest)")
    _add_switch(group, "--watermark", "write watermark_text into a corner of the videos")
    group.add_argument("--watermark-text", metavar="TEXT", help="what the watermark says (default: AI generated)")
    group.add_argument(
        "--from-sidecar", metavar="FILE", help="make the video of this .json again; other flags change what they name"
    )
    group.add_argument("--verbose", type=int, metavar="N", help="0 quiet, 1 progress, 2 debug messages")


def _add_process_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("several processes (torchrun --nproc-per-node N scripts/inference.py ...)")
    group.add_argument("--sequence-parallel", type=int, metavar="N", help="processes that split the frames of a video")
    group.add_argument(
        "--guidance-parallel", type=int, metavar="N", help="2: both guidance branches at once, on different processes"
    )


def _add_reference_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("references: images and videos to start from, end with, continue or edit")
    group.add_argument(
        "--reference-path",
        nargs="+",
        metavar="PATH",
        help="one per prompt (a.png;b.png for two), one for all, or a folder whose files are named like the samples",
    )
    group.add_argument(
        "--mask-strategy", nargs="+", metavar="TEXT", help="where they go, one per prompt or one for all (see docs)"
    )
    group.add_argument("--loop", type=int, metavar="N", help="clips that continue each other")
    group.add_argument("--condition-frame-length", type=int, metavar="N", help="latent frames carried over by a loop")
    group.add_argument("--condition-frame-edit", type=float, metavar="X", help="their edit ratio, 0 keeps them")
    _add_switch(group, "--compat", "repeat what Open-Sora v1.2 gets wrong")


def _add_memory_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("weights and memory")
    group.add_argument(
        "--weights-dir", metavar="DIR", help=f"folder of downloaded weights (see {command_line('weights')})"
    )
    group.add_argument("--text-cache", metavar="DIR", help="folder of encoded prompts; off keeps none")
    _add_switch(group, "--low-memory", "tiled decoding, text encoder in 16 bits, cache in CPU memory, one at a time")
