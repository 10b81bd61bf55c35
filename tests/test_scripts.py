"""The commands: their syntax, their flags, and the set-up script's decisions with a stand-in for Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from opensora.cli.arguments import build_parser, parse_arguments
from opensora.config.loading import SIZE_KEYS
from opensora.config.schema import FLAG_KEYS, SampleConfig

ROOT = Path(__file__).resolve().parents[1]
SHELL_SCRIPTS = [*ROOT.glob("*.sh"), *ROOT.glob("scripts/*.sh"), *ROOT.glob("examples/*.sh"), ROOT / ".ci/run"]

UPSTREAM_FLAGS = (
    "--seed", "--ckpt-path", "--batch-size", "--flash-attn", "--layernorm-kernel", "--resolution",
    "--save-dir", "--sample-name", "--start-index", "--end-index", "--num-sample", "--prompt-as-path",
    "--verbose", "--prompt-path", "--prompt", "--llm-refine", "--num-frames", "--fps", "--save-fps",
    "--image-size", "--frame-interval", "--aspect-ratio", "--watermark", "--num-sampling-steps",
    "--cfg-scale", "--loop", "--condition-frame-length", "--reference-path", "--mask-strategy", "--aes",
    "--flow", "--camera-motion", "--logdate-dir",
)  # fmt: skip


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_have_valid_syntax(script):
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("script", [*SHELL_SCRIPTS, ROOT / "run_tests.sh"], ids=lambda path: path.name)
def test_shell_scripts_are_executable(script):
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("count", ["0", "-1", "two"])
def test_a_number_of_processes_that_is_none_is_refused_before_the_set_up(count):
    command = ["bash", str(ROOT / "run_sample_video.sh")]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"], "NPROC": count}, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"error: NPROC is '{count}'; give a number of processes")


def test_help_lists_every_flag():
    command = [sys.executable, str(ROOT / "scripts/inference.py"), "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for flag in [*UPSTREAM_FLAGS, "--dtype", "--device", "--cfg-options", "--save-frames", "--draft", "--final"]:
        assert f"  {flag} " in text


def test_entry_scripts_share_the_parser_that_answers_in_one_sentence():
    """Also to text that is not UTF-8, which a script would meet when it prints or writes."""
    of_their_own = {path.name for path in (ROOT / "scripts").glob("*.py") if "ArgumentParser(" in path.read_text()}
    assert of_their_own <= {"check_captions.py", "train_mini.py"}


def test_every_flag_sets_an_entry_and_says_what_that_means():
    actions = {action.dest: action.help for action in build_parser()._actions}
    for name in ("help", "words", "config", "cfg_options", "from_sidecar"):
        del actions[name]
    assert actions.keys() <= {*SampleConfig.__pydantic_fields__, *FLAG_KEYS, *SIZE_KEYS}
    assert all(actions.values())


def test_the_official_launch_line_is_understood():
    line = "configs/sample_adacache.py --flash-attn True --layernorm-kernel True --num-frames 2s --resolution 720p"
    line += " --aspect-ratio 9:16 --num-sampling-steps 100 --prompt-path p.txt --save-dir out --logdate-dir True"
    line += " --aes 7 --flow 5 --fps 24 --save-fps 24 --seed 1024"
    config, flags, options = parse_arguments(line.split())
    assert (config, options) == ("configs/sample_adacache.py", {})
    given = {name: value for name, value in flags.items() if value is not None}
    assert given == {
        "flash_attn": True, "layernorm_kernel": True, "num_frames": "2s", "resolution": "720p",
        "aspect_ratio": "9:16", "num_sampling_steps": 100, "prompt_path": "p.txt", "save_dir": "out",
        "logdate_dir": True, "aes": 7.0, "flow": 5.0, "fps": 24, "save_fps": 24, "seed": 1024,
    }  # fmt: skip


def test_without_a_config_the_mini_one_is_sampled_with_adacache():
    assert parse_arguments([])[0] == "configs/mini/sample_adacache.py"
    assert parse_arguments(["--seed", "3"])[0] == "configs/mini/sample_adacache.py"
    assert parse_arguments(["--seed", "3", "other.py"])[0] == "other.py"


def test_cfg_options_have_types_and_keep_the_spaces_of_a_sentence():
    options = parse_arguments(
        ["--cfg-options", "a.b=1", "c=[1,(2,3)]", "d=None", "e=a red, fast circle", "f=0.5", "--cfg-options", "g=x"]
    )[2]
    assert options == {"a.b": 1, "c": [1, (2, 3)], "d": None, "e": "a red, fast circle", "f": 0.5, "g": "x"}


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A copy of the set-up's files beside a Python that only writes down what it is asked to install."""
    root = tmp_path / "check out"
    (root / "scripts").mkdir(parents=True)
    (root / "opensora").mkdir()
    names = ["requirements.txt", "requirements-dev.txt", "requirements-colossalai.txt", "setup.py"]
    names += [
        "scripts/setup_env.sh",
        *(f"opensora/{name}.py" for name in ("__init__", "environment", "errors", "files")),
    ]
    for name in names:
        (root / name).write_text((ROOT / name).read_text())
    return root


@pytest.fixture
def environment(tmp_path) -> Path:
    """An active environment whose `python -m pip install` appends its arguments to pip.log."""
    folder = tmp_path / "env"
    (folder / "bin").mkdir(parents=True)
    python = folder / "bin/python"
    python.write_text(
        "#!/usr/bin/env bash\n"
        f'if [[ "$1 $2" != "-m pip" ]]; then exec "{sys.executable}" "$@"; fi\n'
        f'if [[ "$3" == install ]]; then echo "$*" >>"{folder}/pip.log"; fi\n'
        f'[[ ! -e "{folder}/broken" ]]\n'
    )
    python.chmod(0o755)
    return folder


def set_up(checkout: Path, environment: Path, level: str = "run") -> subprocess.CompletedProcess:
    return run_set_up(["bash", str(checkout / "scripts/setup_env.sh"), level], environment)


def run_set_up(command: list[str], environment: Path) -> subprocess.CompletedProcess:
    variables = {**os.environ, "VIRTUAL_ENV": str(environment)}
    return subprocess.run(command, env=variables, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def set_up_read_only(checkout: Path, environment: Path) -> subprocess.CompletedProcess:
    """The set-up in a checkout that cannot be written to, which for root takes a mount that only this process sees."""
    command = ["bash", str(checkout / "scripts/setup_env.sh")]
    if os.geteuid() != 0:
        checkout.chmod(0o555)
        return run_set_up(command, environment)
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"'
    if subprocess.run(["unshare", "-m", "bash", "-c", mount, str(checkout)], capture_output=True).returncode:
        pytest.skip("root may not mount here")
    return run_set_up(["unshare", "-m", "bash", "-c", f'{mount} && exec "$@"', str(checkout), *command], environment)


def installs(environment: Path) -> list[str]:
    log = environment / "pip.log"
    return log.read_text().splitlines() if log.exists() else []


def test_set_up_installs_once(checkout, environment):
    assert set_up(checkout, environment).returncode == 0
    first = installs(environment)
    assert len(first) == 3 and "colossalai" in first[1] and "--no-deps" in first[1] and f"-e {checkout}" in first[2]
    done = set_up(checkout, environment)
    assert (done.returncode, done.stderr, installs(environment)) == (0, "", first)


def test_set_up_repeats_when_requirements_change(checkout, environment):
    set_up(checkout, environment)
    with (checkout / "requirements.txt").open("a") as file:
        file.write("# changed\n")
    set_up(checkout, environment)
    assert len(installs(environment)) == 6


def test_the_test_set_up_contains_the_other_one(checkout, environment):
    set_up(checkout, environment, "dev")
    assert "requirements-dev.txt" in installs(environment)[0]
    set_up(checkout, environment, "run")
    assert len(installs(environment)) == 3


def test_a_failed_set_up_is_told_and_done_again(checkout, environment):
    (environment / "broken").touch()
    failed = set_up(checkout, environment)
    assert failed.returncode == 1 and failed.stderr.splitlines()[-1].startswith("error: ")
    (environment / "broken").unlink()
    assert set_up(checkout, environment).returncode == 0


def test_a_torch_of_the_active_environment_is_kept(checkout, environment):
    pytest.importorskip("torch")
    done = set_up(checkout, environment)
    assert "keeping torch" in done.stderr and " -c " in installs(environment)[0]


def test_an_active_environment_without_python_is_named(checkout, tmp_path):
    (tmp_path / "gone").mkdir()
    done = set_up(checkout, tmp_path / "gone")
    assert done.returncode == 1 and "bin/python" in done.stderr.splitlines()[-1]


def test_a_complete_environment_works_in_a_checkout_that_cannot_be_written_to(checkout, environment):
    done = set_up_read_only(checkout, environment)
    assert (done.returncode, done.stderr, installs(environment)) == (0, "", [])


def test_an_incomplete_one_is_told_what_it_lacks(checkout, environment, tmp_path):
    file = checkout / "setup.py"
    file.write_text(file.read_text().replace('"numpy>=1.26"', '"numpy<1", "no-such-package"'))
    done = set_up_read_only(checkout, environment)
    assert done.returncode == 1 and installs(environment) == [] and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ") and done.stderr.endswith(f"{environment} lacks numpy<1, no-such-package\n")
    done = set_up_read_only(checkout, tmp_path / "none")
    assert done.returncode == 1 and done.stderr.startswith(f"error: {checkout} cannot be written to; activate")


@pytest.mark.parametrize(
    "command", [["scripts/weights.py", "list"], ["-m", "opensora.memory", "configs/mini/sample.py"]]
)
def test_a_missing_package_is_one_sentence(command, tmp_path):
    """Without the packages of this environment, as with the system's Python."""
    code = (
        "import runpy, sys; sys.prefix = sys.base_prefix; sys.modules['mmengine'] = None; sys.argv = sys.argv[1:];"
        "run = runpy.run_module if sys.argv[0] == '-m' else runpy.run_path; del sys.argv[:sys.argv[0] == '-m'];"
        "run(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {sys.executable} has no package mmengine; run: ") and (
        "makes an environment" in done.stderr or "source" in done.stderr
    )
    assert done.stderr.count("\n") == 1


ENTRIES = [*ROOT.glob("scripts/*.py"), ROOT / "opensora/memory/__main__.py", ROOT / "opensora/doctor.py"]


@pytest.mark.parametrize("script", ENTRIES, ids=lambda path: path.name)
def test_every_entry_enters_the_environment(script):
    """Before it imports anything but the standard library and what finds the environment."""
    before, call, _ = script.read_text().partition('\nif __name__ == "__main__":\n    enter_environment()\n')
    imported = [line.split()[1].split(".")[0] for line in before.splitlines() if line.startswith(("import ", "from "))]
    assert call and set(imported) <= {*sys.stdlib_module_names, "opensora"}
    assert before.count("from opensora") == 1


def test_commands_go_on_in_the_environment_of_the_set_up(checkout, tmp_path):
    """Where no other is active, and not in one that is half made."""
    python = checkout / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/usr/bin/env bash\necho entered "$@"\n')
    python.chmod(0o755)
    (checkout / "scripts/weights.py").write_text((ROOT / "scripts/weights.py").read_text())
    variables = {name: text for name, text in os.environ.items() if not name.startswith(("VIRTUAL_ENV", "CONDA_"))}

    def output(*arguments: str, **more: str) -> str:
        command = [sys._base_executable, *arguments]
        return subprocess.run(command, cwd=checkout, env={**variables, **more}, capture_output=True, text=True).stdout

    assert output("scripts/weights.py", "list", "a b") == "entered scripts/weights.py list a b\n"
    assert output("scripts/weights.py", VIRTUAL_ENV=str(tmp_path)) == ""
    assert output("scripts/weights.py", CONDA_PREFIX=str(tmp_path), CONDA_DEFAULT_ENV="mine") == ""
    (checkout / ".venv-unfinished").touch()
    assert output("scripts/weights.py") == ""
