"""Config files that cannot be used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from support.command_cases import SMALL, Case


def config(text: str | bytes, name: str = "bad.py") -> Callable[[Path], None]:
    """Writes a config file; of a text, one that inherits from the small one."""
    content = text if isinstance(text, bytes) else f"_base_ = '{SMALL}'\n{text}\n".encode()
    return lambda folder: (folder / name).write_bytes(content)


def bad(text: str | bytes, *words: str, name: str = "bad.py") -> Case:
    return Case("", (name, *words), given=config(text, name), config=name)


CASES = {
    "missing": Case("", ["'smal.py' does not exist", "did you mean 'small.py'"], config="smal.py"),
    "missing with its folder": Case("", ["'nowhere/small.py' does not exist"], config="nowhere/small.py"),
    "a folder": Case("", ["'out' is a folder"], config="out"),
    "a folder with a suffix": Case(
        "", ["'folder.py' is a folder"], given=lambda folder: (folder / "folder.py").mkdir(), config="folder.py"
    ),
    "no name": Case("", ["config file"], config=""),
    "a name of 5000 characters": Case("", ["config file"], config="x" * 5000 + ".py"),
    "NUL in the name": Case("", ["config file"], config="a\0b.py"),
    "another suffix": bad(b"", ".py, .yaml or .json", name="bad.txt"),
    "syntax error": bad("seed = = 3", "line 2", "syntax"),
    "unclosed bracket": bad("prompt = ['a'", "line 2", "'['"),
    "not UTF-8": bad(b"prompt = ['\xff\xfe']\n", "UTF-8"),
    "NUL bytes": bad(b"seed = 3\0\n", "null"),
    "empty": bad(b"", "section 'model' is missing"),
    "empty yaml": bad(b"", "empty", name="bad.yaml"),
    "broken yaml": bad(b"model: [1, 2\nseed: 3\n", name="bad.yaml"),
    "yaml list": bad(b"- 1\n- 2\n", "entries by name", name="bad.yaml"),
    "broken json": bad(b'{"seed": 3,}', name="bad.json"),
    "json of ten thousand brackets": bad(b"[" * 10_000, "nested too deeply", name="bad.json"),
    "it raises": bad("width = 1 / 0", "ZeroDivisionError: division by zero"),
    "it exits": bad("import sys\nsys.exit(3)", "SystemExit"),
    "it imports what is not there": bad("import numpyy", "numpyy"),
    "its base is not there": bad(b"_base_ = 'nowhere.py'\n", "nowhere.py"),
    "its base is itself": bad(b"_base_ = 'bad.py'\n", "_base_"),
    "its base is a number": bad(b"_base_ = 3\n", "_base_"),
    "unknown key": bad("sheduler = dict()", "unknown key 'sheduler'", "did you mean 'scheduler'"),
    "unknown key of the scheduler": bad("scheduler = dict(cfg=3)", "unknown key 'cfg' in 'scheduler'", "cfg_scale"),
    "unknown key of the cache": bad("cache = dict(codebok=[(1, 1)])", "cache", "codebok"),
    "unknown key of MoReg": bad(
        "cache = dict(codebook=[(0.1, 2), (1, 1)], moreg=dict(windw=(0, 1)))", "moreg", "windw"
    ),
    "unknown policy": bad("cache = dict(policy='fast')", "cache", "'fast'"),
    "a section that is a text": bad("scheduler = 'rflow'", "scheduler", "dict"),
    "a section that is None": bad("vae = None", "section 'vae' is missing"),
    "a cache that is a number": bad("cache = 3", "cache must be a dict or None, got 3"),
    "text for a number": bad("seed = 'many'", "seed must be a whole number, got 'many'"),
    "a fraction for a whole number": bad("fps = 8.5", "fps must be a whole number, got 8.5"),
    "a number for text": bad("save_dir = 3", "save_dir must be text, got 3"),
    "a number for a switch": bad("low_memory = 1", "low_memory must be True or False, got 1"),
    "a switch for a number": bad("batch_size = True", "batch_size must be a whole number, got True"),
    "a list of numbers for prompts": bad("prompt = [1, 2]", "prompt must be", "[1, 2]"),
    "a function for a number": bad("seed = abs", "seed must be a whole number"),
    "NaN": bad("scheduler = dict(cfg_scale=float('nan'))", "scheduler.cfg_scale must be a number, got nan"),
    "a size of 7": bad("image_size = (7, 16)", "height must be at least 8, got 7"),
    "a size of three numbers": bad("image_size = (16, 16, 16)", "image_size must be 2 values"),
    "half a frame": bad("num_frames = 1.5", "unknown duration 1.5", "number of frames"),
    "another solver": bad("scheduler = dict(solver='eular')", "did you mean 'euler'"),
    "another multi_resolution": bad("multi_resolution = 'STDiT3'", "STDiT2"),
    "no multi_resolution": bad("multi_resolution = None", "set multi_resolution='STDiT2'"),
    "another model": bad("model = dict(type='PixArt')", "'PixArt'", "STDiT3"),
    "a codebook of text": bad("cache = dict(codebook='fast')", "cache", "codebook"),
    "a codebook that is empty": bad("cache = dict(codebook=[])", "cache", "codebook"),
    "a codebook of NaN": bad("cache = dict(codebook=[(float('nan'), 2), (1, 1)])", "cache", "nan"),
    "both styles of cache": bad("model = dict(do_cache=True)\ncache = dict(codebook=[(1, 1)])", "both configure"),
    "a key that is not text": Case("", ["bad.yaml"], given=config(b"3: 4\n", "bad.yaml"), config="bad.yaml"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_bad_config_file_is_refused(check_case, case):
    check_case(case)
