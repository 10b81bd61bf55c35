from __future__ import annotations

import psutil
import pytest

from opensora.memory.measure import free_in_cpu_memory

GB = 1_000_000_000
TOP = "sys/fs/cgroup"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Writes files below a root folder, of a machine that has 8 GB available."""
    available = psutil.virtual_memory()._replace(available=8 * GB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available)

    def write(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(str(text) + "\n")
        return tmp_path

    return write


def group(folder, limit, usage, inactive=0):
    stat = f"anon 5\ninactive_file {inactive}\nactive_file 7"
    return {f"{folder}/memory.max": limit, f"{folder}/memory.current": usage, f"{folder}/memory.stat": stat}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (group(TOP, 4 * GB, 3 * GB), 1 * GB),
        (group(TOP, 4 * GB, 3 * GB, inactive=2 * GB), 3 * GB),  # page cache is given back
        (group(TOP, 4 * GB, 5 * GB), 0),  # a limit that was lowered
        (group(TOP, "max", 3 * GB), 8 * GB),
        (group(TOP, "?", "?"), 8 * GB),
        ({f"{TOP}/memory.max": 4 * GB, f"{TOP}/memory.current": GB, f"{TOP}/memory.stat": "nonsense"}, 3 * GB),
        ({}, 8 * GB),
    ],
)
def test_the_limit_of_a_container_counts(machine, files, expected):
    root = machine({**files, "proc/self/cgroup": "4:memory:/docker/0123\n0::/docker/0123"})  # a path of the host
    assert free_in_cpu_memory(root) == expected


def test_the_tightest_group_around_the_process_counts(machine):
    root = machine(
        {
            "proc/self/cgroup": "0::/user.slice/job:7/step",
            **group(f"{TOP}/user.slice/job:7/step", "max", GB),
            **group(f"{TOP}/user.slice/job:7", 6 * GB, 4 * GB),
            **group(f"{TOP}/user.slice", 7 * GB, 4 * GB),
            **group(f"{TOP}/user.slice/another", GB, GB),
        }
    )
    assert free_in_cpu_memory(root) == 2 * GB


def test_without_control_groups_it_is_what_the_system_says(machine, tmp_path):
    machine({})
    assert free_in_cpu_memory(tmp_path / "nowhere") == 8 * GB
