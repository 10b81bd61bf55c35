"""Encoded captions on disk: what comes back, and what a bad file or folder costs."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest
import torch

from opensora.models.text_encoder.embedding_cache import EmbeddingCache, EncodedCaption, cache_folder
from tests.support import warm_python

CAPTION = "a still red star, größer\nthan \ud83d"  # half of a character, as broken input has it


def encoded(dtype: torch.dtype = torch.float32, seed: int = 0) -> EncodedCaption:
    y = torch.randn(8, 6, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return EncodedCaption.trimmed(y, torch.tensor([1, 1, 1, 0, 1, 0, 0, 0]), len(CAPTION))


@pytest.fixture
def cache(tmp_path) -> EmbeddingCache:
    return EmbeddingCache(tmp_path / "a" / "cache", "key")


def test_padding_is_cut_and_comes_back_as_zeros():
    y, mask = encoded().padded(8)
    assert encoded().y.shape == (5, 6)
    assert mask.tolist() == [1, 1, 1, 0, 1, 0, 0, 0]
    assert y.shape == (8, 6)
    assert not y[5:].any()
    assert EncodedCaption.trimmed(y, torch.zeros(8, dtype=torch.long), 0).padded(8)[1].tolist() == [0] * 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_kept_comes_back_bit_by_bit(cache, dtype):
    assert cache.get(CAPTION) is None
    cache.put(CAPTION, encoded(dtype))
    found = EmbeddingCache(cache.folder, "key").get(CAPTION)
    assert found.y.dtype == dtype
    assert torch.equal(found.y, encoded(dtype).y)
    assert torch.equal(found.mask, encoded().mask)
    assert len(list(cache.folder.iterdir())) == 1


def test_other_captions_and_other_encoders_have_other_files(cache):
    cache.put(CAPTION, encoded())
    assert cache.get(CAPTION + " ") is None
    assert EmbeddingCache(cache.folder, "another").get(CAPTION) is None


@pytest.mark.parametrize("damage", [b"", b"not safetensors", "half", "flipped", "other tensors", "folder"])
def test_a_damaged_file_counts_as_absent_and_is_replaced(cache, damage):
    from safetensors.torch import save

    cache.put(CAPTION, encoded())
    path = cache.path(CAPTION)
    data = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
        assert cache.get(CAPTION) is None
        return
    flipped = bytes([data[-1] ^ 4])
    other = save({"z": torch.zeros(2)})
    path.write_bytes({"half": data[:-40], "flipped": data[:-1] + flipped, "other tensors": other}.get(damage, damage))
    assert cache.get(CAPTION) is None
    cache.put(CAPTION, encoded())
    assert torch.equal(cache.get(CAPTION).y, encoded().y)


@pytest.mark.parametrize("why", ["in a file", "full"])
def test_a_folder_that_cannot_be_written_costs_one_warning(tmp_path, monkeypatch, caplog, why):
    folder = tmp_path / "cache"
    if why == "in a file":
        folder.write_text("")
    else:

        def fail(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", fail)
    cache = EmbeddingCache(folder, "key")
    with caplog.at_level(logging.WARNING):
        for caption in ("one", "two", "three"):
            cache.put(caption, encoded())
            assert cache.get(caption) is None
        cache.prune()
    assert len(caplog.records) == 1
    assert "text_cache" in caplog.text


def test_what_was_not_used_for_longest_goes_first(cache):
    for i in range(4):
        cache.put(f"{i}", encoded(seed=i))
        os.utime(cache.path(f"{i}"), (i, i))
    foreign = cache.folder / "notes.txt"
    foreign.write_text("mine")
    left_over = cache.folder / f".{cache.path('9').name}.0123abcd.tmp"
    left_over.write_bytes(bytes(100))
    os.utime(left_over, (0, 0))
    cache.get("0")  # now the one used last
    size = cache.path("0").stat().st_size
    cache.prune(4 * size)
    assert not left_over.exists()
    cache.prune(2 * size + 1)
    assert [cache.get(f"{i}") is not None for i in range(4)] == [True, False, False, True]
    assert foreign.exists()


def test_two_processes_may_write_the_same_caption(cache, tmp_path):
    code = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from opensora.models.text_encoder.embedding_cache import EmbeddingCache, EncodedCaption\n"
        "cache = EmbeddingCache(Path(sys.argv[1]), 'key'); ones = torch.ones(400, dtype=torch.long)\n"
        "for i in range(100):\n"
        "    cache.put('caption', EncodedCaption(torch.full((400, 64), 1.0), ones, 7))\n"
        "    assert cache.get('caption').y.sum() == 400 * 64\n"
    )
    (tmp_path / "write.py").write_text(code)
    runs = [warm_python.start([tmp_path / "write.py", cache.folder]) for _ in range(2)]
    assert [run.communicate()[1] for run in runs] == ["", ""]
    assert [path.name for path in cache.folder.iterdir()] == [cache.path("caption").name]


def test_the_folder_is_the_entrys_or_the_variables_or_the_users(monkeypatch, tmp_path):
    for name in ("OPENSORA_TEXT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder(None) == tmp_path / ".cache" / "opensora-adacache" / "text"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder(None) == tmp_path / "xdg" / "opensora-adacache" / "text"
    monkeypatch.setenv("OPENSORA_TEXT_CACHE", "off")
    assert cache_folder(None) is None
    assert cache_folder("~/mine") == tmp_path / "mine"
    monkeypatch.setenv("OPENSORA_TEXT_CACHE", str(tmp_path / "ours"))
    assert cache_folder(None) == tmp_path / "ours"
    assert cache_folder("off") is None
