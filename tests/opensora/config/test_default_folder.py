"""Runs of different settings have different folders by default, whose names can be read."""

from __future__ import annotations

import re
import shlex
import shutil

import pytest

from opensora.cli.arguments import parse_arguments
from opensora.config.entries import default_save_dir, dotted_overrides
from opensora.config.loading import load_config
from opensora.errors import ConfigError
from opensora.files import REPO_ROOT

MINI = "configs/mini/sample.py"


def folder_of(line: str) -> str:
    config, flags, options = parse_arguments([MINI, *shlex.split(line)])
    return default_save_dir(config, dotted_overrides(flags, options)).removeprefix("samples/mini/sample").lstrip("/")


@pytest.mark.parametrize(
    ("line", "folder"),
    [
        ("--verbose 0 --save-frames --batch-size 4 --draft 6", ""),
        ("--speedup 2", "speedup-2.0"),
        ("--num-frames 34 --prompt 'a red star' --loop 3", "a-red-star_loop-3_num_frames-34"),
        (
            "--cfg-options scheduler.num_sampling_steps=8 cache.bridge=fitted",
            "cache.bridge-fitted_num_sampling_steps-8",
        ),
    ],
)
def test_names_say_what_was_changed(line, folder):
    assert folder_of(line) == folder


@pytest.mark.parametrize(
    ("config", "folder"),
    [
        ("/home/configs/me/configs/mini/mine.py", "samples/mini/mine"),
        ("configs/../mine.py", "samples/mine"),
        ("../mine.py", "samples/mine"),
        ("/a/configs/mini/sample.py", "samples/mini/sample"),
        ("configs/mini/sample.yaml", "samples/mini/sample"),
    ],
)
def test_a_config_elsewhere_has_its_name_and_a_hash(config, folder):
    assert re.fullmatch(f"{folder}-[0-9a-f]{{8}}", default_save_dir(config, {}))


def test_configs_of_one_name_have_different_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    for file in ("configs/my.py", "configs/my.yaml", "my.py"):
        (tmp_path / file).touch()
    paths = ["configs/my.py", "configs/my.yaml", "my.py", "my.yaml", "/a/my.py", "/b/my.yaml", "/a/configs/my.py"]
    folders = [default_save_dir(path, {}) for path in paths]
    assert folders[0] == "samples/my" and len(set(folders)) == len(paths)
    assert [default_save_dir(str(tmp_path / path), {}) for path in paths[:4]] == folders[:4]


def test_a_project_that_is_moved_keeps_its_folders(tmp_path, monkeypatch):
    folders = []
    for project in ("before", "after"):
        (tmp_path / project).mkdir()
        monkeypatch.chdir(tmp_path / project)
        folders.append(default_save_dir("my.py", {}))
    assert folders[0] == folders[1]


@pytest.mark.parametrize(
    ("prompt", "settings"),
    [
        ("aes 7.0", "--aes 7"),
        ("loop 2", "--loop 2"),
        ("seed 5", "--seed 5"),
        ("solver adams", "--solver adams"),
        ("resolution 240p", "--resolution 240p"),
        ("cache.bridge fitted", "--cfg-options cache.bridge=fitted"),
        ("save", "--save-fps 8"),
    ],
)
def test_a_prompt_that_reads_as_a_setting_has_a_folder_of_its_own(prompt, settings):
    more = " --fps 8" if prompt == "save" else ""
    assert folder_of(f"--prompt '{prompt}'{more}") != folder_of(settings)


def test_what_a_name_cannot_say_a_hash_tells_apart():
    words = ["a red star", "'A red star'", "'a red star.'", "a-red-star", "drafts", "reproduced", "一只猫"]
    lines = [f"--prompt '{word}'" if "'" not in word else f"--prompt {word}" for word in words]
    lines += ["--cfg-options cache=None", "--cfg-options cache.codebook=None"]
    lines += ["--reference-path a/b", "--reference-path a-b", f"--prompt '{'a ' * 50}b'", f"--prompt '{'a ' * 50}c'"]
    folders = [folder_of(line) for line in lines]
    assert len(set(folders)) == len(lines) and all(len(folder) < 80 and "/" not in folder for folder in folders)
    assert not {"drafts", "reproduced", ""} & set(folders)
    assert folders == [folder_of(line) for line in lines]


def test_a_folder_that_is_named_wins(tmp_path):
    config = tmp_path / "mine.py"
    config.write_text(f"_base_ = {str(REPO_ROOT / MINI)!r}\n")
    assert load_config(config).save_dir.startswith("samples/mine-")
    config.write_text(config.read_text() + "save_dir = 'here'\n")
    assert load_config(config, {"seed": 3}).save_dir == "here"
    assert load_config(config, {"seed": 3, "save_dir": "there"}).save_dir == "there"


@pytest.mark.parametrize("name", ["mini/sample_adacache.py", "mini/sample_adacache_moreg.py"])
def test_a_copied_config_is_told_where_its_base_is(tmp_path, name):
    copy = shutil.copy(REPO_ROOT / "configs" / name, tmp_path)
    with pytest.raises(ConfigError, match=r"line 2: its _base_ '.*' does not exist; write _base_ = '.*'") as error:
        load_config(copy)
    base = str(error.value).split("write _base_ = '")[1].split("'")[0]
    (tmp_path / "right.py").write_text(f"_base_ = {base!r}\n")
    assert load_config(tmp_path / "right.py").height == load_config(f"configs/{name}").height
