"""``scripts/weights.py`` against a hub on this machine: what it lists, downloads, resumes, verifies and refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import close_session, constants
from safetensors.numpy import save

from scripts.weights import main
from support import small_model
from support.fake_hub import COMMIT, FakeHub, checksum

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / small_model.FOLDER
TIME_LIMIT = 120  # seconds; generous, for busy machines
PIECES = {"model": "transformer", "vae": "vae", "text_encoder": "text_encoder"}
OPTIONS = ["--cfg-options", *(f"{name}.from_pretrained=owner/tiny-{name}" for name in PIECES)]
MINI = small_model.SAMPLE

Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    """The three pieces of the bundled model as repositories, with files that are not needed."""
    hub = FakeHub()
    for name, folder in PIECES.items():
        files = {file.name: file.read_bytes() for file in (ASSETS / folder).iterdir()}
        hub.repos[f"owner/tiny-{name}"] = {**files, "README.md": b"# tiny", "pytorch_model.bin": b"not needed"}
    with hub.running():
        yield hub


@pytest.fixture
def run_process(hub, tmp_path) -> Run:
    """Run a command in a process of its own, from an empty folder, with the hub's cache in another one."""
    work = tmp_path / "work"
    work.mkdir()

    def run_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        variables = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        variables |= {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hub")}
        variables |= {"PYTHONPATH": "", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1", **environment}
        return subprocess.run(
            [sys.executable, str(ROOT / "scripts/weights.py"), *arguments],
            cwd=work,
            env=variables,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
        )

    return run_command


@pytest.fixture
def run(hub, run_process, tmp_path, monkeypatch, capsys) -> Run:
    """The same within this process, which need not load everything again."""
    monkeypatch.chdir(tmp_path / "work")
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub/hub"))

    def run_command(*arguments: str, offline: bool = False) -> subprocess.CompletedProcess:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1" if offline else "0")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        close_session()  # the client's, which knows whether it is offline
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as error:  # of the parser
            code = error.code
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run_command


@pytest.fixture
def run_offline(run) -> Run:
    """The same without a network."""
    return partial(run, offline=True)


def assert_refused(done: subprocess.CompletedProcess, *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_download_verify_and_list(run, run_process, run_offline, hub, tmp_path):
    folder = str(tmp_path / "new/weights")
    done = run_process("download", MINI, "--weights-dir", folder, *OPTIONS)
    assert done.returncode == 0, done.stderr
    assert "transformer owner/tiny-model: 4.7 MB to " in done.stdout and "11 MB in all" in done.stdout
    assert "are free in" in done.stdout and "Traceback" not in done.stderr
    assert len(hub.transfers("model.safetensors")) == 3
    for name, assets in PIECES.items():
        for file in (ASSETS / assets).iterdir():
            assert (Path(folder) / f"tiny-{name}" / file.name).read_bytes() == file.read_bytes()
        assert not (Path(folder) / f"tiny-{name}" / "README.md").exists()
        assert not hub.transfers("pytorch_model.bin")

    verified = run_offline("verify", MINI, "--weights-dir", folder, *OPTIONS)
    assert (verified.returncode, verified.stderr) == (0, "")
    assert "fit STDiT3" in verified.stdout and "fit T5EncoderModel" in verified.stdout
    assert "unchecked" not in verified.stdout and "all weights can be used" in verified.stdout
    assert verified.stdout.count("checksums as the hub recorded them: model.safetensors") == 3

    listed = run_offline("list", MINI, "--weights-dir", folder, *OPTIONS).stdout
    assert f"weights folder {folder}/tiny-vae" in listed and "safetensors" in listed and "5.9 MB" in listed

    before = len(hub.requests)
    again = run("download", MINI, "--weights-dir", folder, *OPTIONS)
    assert again.returncode == 0 and len(hub.requests) == before


SUBFOLDERS = ["--cfg-options", *(f"{name}.from_pretrained=owner/pipeline/{name}" for name in PIECES)]
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "spiece.model")


@pytest.fixture
def pipeline(hub) -> dict[str, bytes]:
    """The three pieces as folders of one repository, as pipelines of diffusers are laid out, with folders more."""
    files = {"model_index.json": b"{}", "vae_other/config.json": b"{}", "vae_other/model.safetensors": b"not needed"}
    for name, folder in PIECES.items():
        for file in (ASSETS / folder).iterdir():
            inside = "tokenizer" if file.name in TOKENIZER else name
            files[f"{inside}/{file.name}"] = file.read_bytes()
    hub.repos["owner/pipeline"] = files
    return files


@pytest.mark.parametrize("place", ["folder", "cache"])
def test_pieces_in_folders_of_one_repository(run, run_offline, hub, pipeline, tmp_path, place):
    """The tokenizer comes along with the text encoder, and nothing else does."""
    where = ["--weights-dir", str(tmp_path / "weights")] if place == "folder" else []
    done = run("download", MINI, *where, *SUBFOLDERS)
    assert done.returncode == 0, done.stderr
    assert "transformer owner/pipeline/model: 4.7 MB to " in done.stdout and "11 MB in all" in done.stdout
    top = tmp_path / "weights/pipeline"
    if place == "cache":
        top = next((tmp_path / "hub").glob("hub/models--owner--pipeline/snapshots/*"))
    wanted = {name: data for name, data in pipeline.items() if name.split("/")[0] in {*PIECES, "tokenizer"}}
    for name, data in wanted.items():
        assert (top / name).read_bytes() == data
    assert not (top / "vae_other").exists() and not (top / "model_index.json").exists()

    verified = run_offline("verify", MINI, *where, *SUBFOLDERS)
    assert (verified.returncode, verified.stderr) == (0, "")
    assert "unchecked" not in verified.stdout and "fit T5EncoderModel" in verified.stdout
    assert f"{'weights folder' if place == 'folder' else 'hub cache'} {top}/vae" in (
        run_offline("list", MINI, *where, *SUBFOLDERS).stdout
    )

    before = len(hub.requests)
    assert run("download", MINI, *where, *SUBFOLDERS).returncode == 0 and len(hub.requests) == before
    if place == "cache":
        copied = run_offline("download", MINI, "--weights-dir", str(tmp_path / "copy"), *SUBFOLDERS)
        assert copied.returncode == 0, copied.stderr
        assert (tmp_path / "copy/pipeline/tokenizer/tokenizer.json").read_bytes() == wanted["tokenizer/tokenizer.json"]
        again = run_offline("verify", MINI, "--weights-dir", str(tmp_path / "copy"), *SUBFOLDERS)
        assert again.returncode == 0 and "all weights can be used" in again.stdout


def test_a_folder_of_a_repository_is_mended_and_named(run, run_offline, hub, pipeline, tmp_path):
    folder = tmp_path / "weights"
    assert run("download", MINI, "--weights-dir", str(folder), *SUBFOLDERS).returncode == 0
    (folder / "pipeline/tokenizer/tokenizer.json").unlink()
    (folder / "pipeline/vae/model.safetensors").write_bytes(b"cut off")
    verified = run_offline("verify", MINI, "--weights-dir", str(folder), *SUBFOLDERS)
    assert verified.returncode == 1 and "not usable: autoencoder, text encoder" in verified.stdout
    assert "text_encoder lacks tokenizer.json or spiece.model" in verified.stdout
    done = run("download", MINI, "--weights-dir", str(folder), *SUBFOLDERS)
    assert done.returncode == 0, done.stderr
    assert run_offline("verify", MINI, "--weights-dir", str(folder), *SUBFOLDERS).returncode == 0
    missing = ["--cfg-options", "model.from_pretrained=owner/pipeline/nothing"]
    assert_refused(
        run("download", MINI, "--weights-dir", str(folder), *missing),
        "owner/pipeline/nothing is not a folder of transformer weights: it holds none",
    )
    told = run_offline("verify", MINI, "--weights-dir", str(folder), *missing)
    assert "not on this machine" in told.stdout


def test_a_transfer_that_breaks_off_goes_on_where_it_was(run, hub, tmp_path):
    # More than twice as large as the parts that the client writes.
    hub.repos["owner/tiny-vae"]["model.safetensors"] = save({"a": np.arange(6_000_000, dtype=np.float32)})
    hub.repos["owner/tiny-vae"]["vae.json"] = b"{}"
    only_vae = ["--cfg-options", "vae.from_pretrained=owner/tiny-vae"]
    hub.cut.add("model.safetensors")
    done = run("download", MINI, "--weights-dir", str(tmp_path / "weights"), *only_vae)
    assert done.returncode == 0, done.stderr
    first, second = hub.transfers("model.safetensors")
    assert first is None and int(second.removeprefix("bytes=").rstrip("-")) >= 10_000_000
    stored = (tmp_path / "weights/tiny-vae/model.safetensors").read_bytes()
    assert stored == hub.repos["owner/tiny-vae"]["model.safetensors"]


def test_finished_files_survive_a_download_that_fails(run, hub, tmp_path):
    arguments = ("download", MINI, "--weights-dir", str(tmp_path / "weights"), *OPTIONS)
    hub.broken.add("owner/tiny-vae/model.safetensors")
    failed = run(*arguments)
    assert failed.returncode == 1 and "run the command again" in failed.stderr and "Traceback" not in failed.stderr
    assert failed.stderr.splitlines()[-1].startswith("error: the hub could not deliver owner/tiny-vae")
    hub.broken.clear()
    hub.requests.clear()
    assert run(*arguments).returncode == 0
    assert len(hub.transfers("model.safetensors")) == 1


def test_damage_is_found_and_mended(run, run_offline, hub, tmp_path):
    folder = tmp_path / "weights"
    arguments = (MINI, "--weights-dir", str(folder), *OPTIONS)
    assert run("download", *arguments).returncode == 0
    weights = folder / "tiny-model/model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-8] + bytes(8 * [1]))  # of the right size
    (folder / "tiny-vae/model.safetensors").write_bytes(b"cut off")
    (folder / "tiny-text_encoder/tokenizer.json").unlink()
    done = run_offline("verify", *arguments)
    assert done.returncode == 1
    assert f"{weights} does not have the sha256 that" in done.stdout
    assert "tiny-vae/model.safetensors is corrupt or truncated" in done.stdout
    assert "lacks tokenizer.json or spiece.model" in done.stdout
    assert done.stdout.splitlines()[-1] == "not usable: transformer, autoencoder, text encoder"
    quick = run_offline("verify", *arguments, "--quick").stdout
    assert quick.splitlines()[-1] == "not usable: autoencoder, text encoder"

    weights.unlink()
    hub.requests.clear()
    mended = run("download", *arguments)
    assert mended.returncode == 0, mended.stderr
    assert "the rest is there" in mended.stdout and len(hub.transfers("model.safetensors")) == 2
    assert len(hub.transfers("tokenizer.json")) == 1
    assert run_offline("verify", *arguments, "--quick").returncode == 0
    assert weights.read_bytes() == data
    weights.write_bytes(bytes(len(data)))  # space that was taken and never filled
    assert run("download", *arguments).returncode == 0
    assert weights.read_bytes() == data


def test_the_cache_of_the_hub(run, run_offline, hub, tmp_path):
    assert run("download", MINI, *OPTIONS).returncode == 0
    snapshot = tmp_path / "hub/hub/models--owner--tiny-vae/snapshots" / COMMIT
    assert snapshot.is_dir()
    listed = run_offline("list", MINI, *OPTIONS).stdout
    assert f"hub cache {snapshot}" in listed
    verified = run_offline("verify", MINI, *OPTIONS)
    assert verified.returncode == 0 and "unchecked" not in verified.stdout
    # A folder to take along is filled from the cache, without a network.
    folder = tmp_path / "along"
    copied = run_offline("download", MINI, "--weights-dir", str(folder), *OPTIONS)
    assert copied.returncode == 0 and "to copy from the hub's cache" in copied.stdout
    assert (folder / "tiny-vae/model.safetensors").read_bytes() == (ASSETS / "vae/model.safetensors").read_bytes()
    (snapshot / "model.safetensors").resolve().write_bytes(b"x" * 100)
    damaged = run_offline("verify", MINI, *OPTIONS, "--quick")
    assert damaged.returncode == 1 and "corrupt or truncated" in damaged.stdout


def test_weights_that_were_copied_by_hand_have_no_checksums(run_offline, tmp_path):
    folder = tmp_path / "weights"
    for name, assets in PIECES.items():
        shutil.copytree(ASSETS / assets, folder / f"owner/tiny-{name}")
    done = run_offline("verify", MINI, "--weights-dir", str(folder), *OPTIONS)
    assert done.returncode == 0 and done.stdout.count("no checksums are known for model.safetensors") == 3


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_is_obeyed_at_once(run_process, hub, variable, tmp_path):
    others = {"HF_HUB_OFFLINE": "", "TRANSFORMERS_OFFLINE": ""}
    folder = str(tmp_path / "weights")
    done = run_process("download", MINI, "--weights-dir", folder, *OPTIONS, **{**others, variable: "1"})
    assert_refused(done, f"{variable} forbids downloads", "owner/tiny-model", "owner/tiny-text_encoder")
    assert not hub.requests and not Path(folder).exists()


def test_a_hub_that_is_not_there_is_given_up_soon(run_process):
    start = time.monotonic()
    done = run_process("download", "configs/sample.py", HF_ENDPOINT="http://127.0.0.1:9")
    assert_refused(done, "cannot be reached", "hpcai-tech/OpenSora-STDiT-v3 (4.8 GB)", "t5-v1_1-xxl (19 GB)")
    assert time.monotonic() - start < 15


def test_all_that_cannot_be_downloaded_is_named(run, hub):
    del hub.repos["owner/tiny-vae"]
    hub.repos["owner/tiny-text_encoder"] = {"README.md": b"nothing else"}
    done = run("download", MINI, *OPTIONS)
    assert_refused(done, "no repository owner/tiny-vae", "owner/tiny-text_encoder is not a repository of text encoder")


def test_what_is_missing_is_told_by_verify_and_list(run, run_offline, hub, tmp_path):
    done = run_offline("verify", "configs/sample.py")
    assert done.returncode == 1 and done.stdout.count("scripts/weights.py download") == 3
    listed = run_offline("list")
    assert listed.returncode == 0 and "hpcai-tech/OpenSora-STDiT-v3  4.8 GB  missing" in listed.stdout
    assert "384 kB  missing" in run("list", MINI, *OPTIONS).stdout  # as the hub says
    own = ["--cfg-options", f"model.from_pretrained={tmp_path}", "vae.from_pretrained=./nowhere"]
    done = run_offline("download", MINI, *own)
    assert done.returncode == 1 and "a folder of your own" in done.stderr and "'./nowhere' is neither" in done.stderr
    done = run_offline("verify", MINI, *own)
    assert done.returncode == 1 and f"{tmp_path} lacks config.json" in done.stdout and "'./nowhere'" in done.stdout


def test_mistakes_end_in_one_sentence(run, tmp_path):
    assert_refused(run("verify", "--quik"), "did you mean '--quick'?")
    assert_refused(run("lst"), "'list', 'verify', 'download'")
    assert_refused(run("list", "nowhere.py"), "nowhere.py")
    assert_refused(run("list", "--weights-dir", str(tmp_path / "no")), str(tmp_path / "no"), "is not a folder")


def test_a_run_downloads_into_its_folder_of_weights(hub, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    options = dict(option.split("=") for option in OPTIONS[1:])
    code = (
        "import sys\nfrom opensora.config.loading import load_config\n"
        "from opensora.weights import locate_weights\n"
        "from opensora.weights.download import download_missing\n"
        f"config = load_config({MINI!r}, None, {options | {'weights_dir': str(folder)}!r})\n"
        "print(download_missing(locate_weights(config)).applied_to(config).vae.from_pretrained)\n"
        "assert 'torch' not in sys.modules"
    )
    variables = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hub")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=TIME_LIMIT)
    assert done.stdout.strip() == str(folder / "tiny-vae"), done.stderr
    assert (folder / "tiny-text_encoder/tokenizer.json").is_file()


def test_checksums_of_the_hub():
    assert checksum("a.json", b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # git's empty blob
