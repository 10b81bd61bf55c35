"""How processes are arranged, and what is refused."""

from __future__ import annotations

import pytest

from opensora.acceleration.launch import Launch, MeshShape, check_axes, choose_mesh, read_launch
from opensora.errors import ConfigError, run_command
from opensora.models.parts import even_parts, share_of

MASTER = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
SIZE = {"latent_frames": 15, "tokens_per_frame": 3600}


@pytest.mark.parametrize(
    ("world_size", "batches", "expected"),
    [
        (1, 1, MeshShape(1, 1, 1)),
        (2, 1, MeshShape(1, 2, 1)),
        (3, 1, MeshShape(1, 1, 3)),
        (4, 1, MeshShape(1, 2, 2)),
        (8, 1, MeshShape(1, 2, 4)),
        (8, 2, MeshShape(2, 2, 2)),
        (8, 3, MeshShape(2, 2, 2)),
        (8, 5, MeshShape(4, 2, 1)),
        (8, 8, MeshShape(8, 1, 1)),
        (8, 100, MeshShape(8, 1, 1)),
        (6, 2, MeshShape(2, 1, 3)),
    ],
)
def test_videos_side_by_side_come_first_then_guidance_then_frames(world_size, batches, expected):
    shape = choose_mesh(world_size, batches, **SIZE)
    assert shape == expected
    assert shape.world_size == world_size


def test_what_is_asked_for_is_kept():
    assert choose_mesh(8, 100, sequence=8, **SIZE) == MeshShape(1, 1, 8)
    assert choose_mesh(8, 100, sequence=2, **SIZE) == MeshShape(4, 1, 2)
    assert choose_mesh(8, 100, guidance=2, **SIZE) == MeshShape(4, 2, 1)
    assert choose_mesh(8, 1, guidance=1, **SIZE) == MeshShape(1, 1, 8)
    assert choose_mesh(8, 1, guidance=2, sequence=2, **SIZE) == MeshShape(2, 2, 2)


def test_a_model_that_cannot_be_split_leaves_processes_idle():
    assert choose_mesh(4, 1) == MeshShape(2, 2, 1)
    assert choose_mesh(4, 1, max_guidance=1) == MeshShape(4, 1, 1)
    assert choose_mesh(4, 1, latent_frames=1, tokens_per_frame=3600) == MeshShape(2, 2, 1)  # an image


def test_more_processes_than_frames_only_if_asked_for():
    assert choose_mesh(8, 1, guidance=1, latent_frames=5, tokens_per_frame=16) == MeshShape(2, 1, 4)
    assert choose_mesh(8, 1, sequence=8, latent_frames=5, tokens_per_frame=16) == MeshShape(1, 1, 8)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"world_size": 4, "sequence": 3}, "sequence_parallel=3 needs 3 processes, but 4 run, which is not a multiple"),
        ({"world_size": 1, "guidance": 2}, "guidance_parallel=2 needs 2 processes, but one process runs; start with"),
        ({"world_size": 2, "guidance": 2, "sequence": 2}, "guidance_parallel=2 x sequence_parallel=2 needs 4 proc"),
        ({"world_size": 4, "guidance": 4}, "guidance_parallel is 4, but there are two halves"),
        ({"world_size": 4, "sequence": 0}, "sequence_parallel is 0"),
        ({"world_size": 4, "sequence": 4, "tokens_per_frame": 2}, "only 2 tokens per frame to split; use 2"),
        ({"world_size": 2, "sequence": 2, "tokens_per_frame": 1}, "has nothing to split; use 1"),
        ({"world_size": 2, "guidance": 2, "max_guidance": 1}, "needs a model that runs with guidance"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(arguments, words):
    with pytest.raises(ConfigError, match=words):
        choose_mesh(num_batches=1, **{**SIZE, **arguments})


def test_the_axes_alone_are_checked_before_anything_is_read():
    check_axes(8, 2, 4)
    check_axes(1, None, None)
    check_axes(1, 1, 1)
    with pytest.raises(ConfigError, match="torchrun --nproc-per-node 8"):
        check_axes(4, 2, 4)


def test_a_process_that_no_launcher_started_is_alone():
    assert read_launch({}).is_alone
    assert read_launch({"SLURM_PROCID": "3"}).is_alone
    launch = read_launch({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "GROUP_RANK": "1", **MASTER})
    assert launch == Launch(3, 4, 1, "1")
    assert launch.name.startswith("rank 3 (host ")


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "x", "WORLD_SIZE": "2"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "1", "WORLD_SIZE": "2", **MASTER},
        {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"},
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(environment):
    with pytest.raises(ConfigError, match="start with torchrun"):
        read_launch(environment)


@pytest.mark.parametrize("length", [0, 1, 5, 15, 16])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_parts_cover_a_range_evenly(length, count):
    parts = even_parts(length, count)
    assert [i for part in parts for i in range(length)[part]] == list(range(length))
    sizes = [len(range(length)[part]) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert [share_of(length, (i, count)) for i in range(count)] == parts


def test_a_command_of_one_process_is_not_run_by_several(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    for name, value in {"WORLD_SIZE": "2", "LOCAL_RANK": "0", **MASTER}.items():
        monkeypatch.setenv(name, value)
    assert run_command(lambda: 0) == 2
    assert "runs in one process, and torchrun started 2" in capsys.readouterr().err
    assert run_command(lambda: 0, several=True) == 0
