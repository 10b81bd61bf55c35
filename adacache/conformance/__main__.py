"""`python -m adacache.conformance`: checks whether a cache for video pipelines of diffusers is right.

Every property of a cache is tried on pipelines with tiny random models. The exit status is 1 if one does not hold.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- written by --markdown: begin -->", "<!-- written by --markdown: end -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m adacache.conformance", description=__doc__.partition("\n\n")[2], allow_abbrev=False
    )
    parser.add_argument(
        "--cache",
        nargs="*",
        default=["adacache"],
        metavar="NAME",
        help="this library's caches: adacache (all of them) or one, such as adacache-codebook; those of diffusers: "
        "diffusers (all of them) or one, such as first_block_cache; MODULE:OBJECT for one of your own, an "
        "adacache.conformance.cache.Cache (default: adacache)",
    )
    parser.add_argument(
        "--families", nargs="+", metavar="NAME", help="pipelines to try it on (default: one of each family)"
    )
    parser.add_argument("--properties", nargs="+", metavar="NAME", help="what to check (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every verdict with its evidence")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write tables, into the marked part of FILE where it has one"
    )
    parser.add_argument(
        "--with",
        dest="earlier",
        nargs="+",
        default=[],
        type=Path,
        metavar="FILE",
        help="also report what earlier runs wrote with --json, such as those in other environments; newer verdicts "
        "replace older ones, and --cache without a name checks nothing anew",
    )
    options = parser.parse_args(arguments)
    return run(parser, options)


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    """Carry out the parsed arguments, and return the exit code."""
    import torch
    from tqdm import tqdm

    from adacache.atomic import atomic_path
    from adacache.conformance.cache import OURS
    from adacache.conformance.diffusers_hooks import HOOKS
    from adacache.conformance.properties import PROPERTIES
    from adacache.conformance.table import as_data, as_markdown, as_text, check_all, from_data
    from adacache.conformance.tiny import OTHERS, TINY

    try:
        caches = list(_caches(options.cache, OURS, HOOKS))
        known = {**TINY, **OTHERS}
        families = {name: known[_known("family", name, known)] for name in options.families or TINY}
        properties = [_known("property", name, PROPERTIES) for name in options.properties or PROPERTIES]
        earlier = [_earlier(path, from_data) for path in options.earlier]
        for path in filter(None, (options.json, options.markdown)):
            if path.is_dir() or not path.absolute().parent.is_dir():
                raise ValueError(f"{path} cannot be written; name a file in a folder that exists")
        document = f"{BEGIN}\n{END}\n"
        if options.markdown is not None and options.markdown.exists():
            document = options.markdown.read_text(encoding="utf-8")
        before, begin, rest = document.partition(BEGIN)
        if begin and END not in rest:
            raise ValueError(f"{options.markdown} has the mark {BEGIN} and none {END} after it; add that")
    except (ValueError, ImportError, AttributeError, OSError) as error:
        parser.error(str(error))

    torch.set_num_threads(1)  # the fastest for small tensors
    total = len(caches) * len(families) * len(properties)
    with _quiet(), tqdm(total=total, disable=None, leave=False) as bar:

        def progress(entry: Any) -> None:
            bar.set_description(f"{entry.cache} {entry.family}", refresh=False)
            bar.update()

        entries = check_all(caches, families, properties, progress)
    told = [*(entry for own, _ in earlier for entry in own), *entries]
    entries = list({(entry.cache, entry.family, entry.property): entry for entry in told}.values())
    versions = _together([*(own for _, own in earlier), *([_versions()] if caches or not earlier else [])])
    print(as_text(entries))
    if options.json is not None:
        with atomic_path(options.json) as path:
            text = json.dumps({"versions": versions, "verdicts": as_data(entries)}, indent=1, default=str)
            path.write_text(text + "\n", encoding="utf-8")
    if options.markdown is not None:
        of_packages = ", ".join(f"{name} {number}" for name, number in versions.items())
        with atomic_path(options.markdown) as path:
            text = f"{before}{BEGIN}\n\n{as_markdown(entries)}\n\nWith {of_packages}.\n\n{END}{rest.partition(END)[2]}"
            path.write_text(text, encoding="utf-8")
    return int(any(entry.verdict.outcome == "FAIL" for entry in entries))


def _together(runs: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return the versions of packages that several runs used, each once."""
    numbers: dict[str, dict[str, None]] = {}
    for name, told in (item for own in runs for item in own.items()):
        numbers.setdefault(name, {}).update(dict.fromkeys(told.split(" and ")))
    return {name: " and ".join(told) for name, told in numbers.items()}


def _earlier(path: Path, from_data: Callable[[Any], list[Any]]) -> tuple[list[Any], dict[str, str]]:
    """Return the entries and versions that an earlier run wrote with --json.

    Raises:
        OSError, ValueError: the file cannot be read, or holds something else.
    """
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        return from_data(run["verdicts"]), dict(run["versions"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not what --json writes: {error!r}") from error


def _caches(names: Iterable[str], ours: Sequence[Any], hooks: Sequence[Any]) -> Iterable[Any]:
    """Yield the caches of these names; a name may also be MODULE:OBJECT.

    Raises:
        ValueError: a name is unknown, or stands for something else.
        ImportError, AttributeError: MODULE:OBJECT does not exist.
    """
    built_in = {cache.name: cache for cache in (*ours, *hooks)}
    groups = {"adacache": ours, "diffusers": hooks}
    for name in names:
        if ":" in name:
            module, _, attribute = name.partition(":")
            sys.path.insert(0, "")
            cache = getattr(import_module(module), attribute)
            if not isinstance(cache, type(ours[0])):
                raise ValueError(f"{name} is {cache!r}, and not an adacache.conformance.cache.Cache")
            yield cache
        else:
            yield from groups.get(name) or [built_in[_known("cache", name, [*groups, *built_in])]]


def _known(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the name if it is known.

    Raises:
        ValueError: it is not.
    """
    if name not in known:
        raise ValueError(f"unknown {kind} '{name}'; known are {', '.join(known)}")
    return name


def _versions() -> dict[str, str]:
    """Return the versions of those packages involved that are installed."""
    found = {}
    for name in ("torch", "diffusers", "accelerate", "cache-dit"):
        try:
            found[name] = version(name)
        except ImportError:
            continue
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the libraries, whose messages about each run would bury the table."""
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


if __name__ == "__main__":
    sys.exit(main())
