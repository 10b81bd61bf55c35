from __future__ import annotations

import os

import pytest

from opensora.memory.measure import free_in_cpu_memory

GB = 1_000_000_000


@pytest.fixture
def machine(tmp_path):
    """Writes files below a root folder; 8 GB are available to begin with."""

    def write(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(str(text) + "\n")
        return tmp_path

    write({"proc/meminfo": f"MemTotal: 9999999 kB\nMemFree: 10 kB\nMemAvailable: {8 * GB // 1024} kB"})
    return write


def version_2(folder, limit, usage, inactive=0):
    stat = f"anon 5\ninactive_file {inactive}\nactive_file 7"
    return {f"{folder}/memory.max": limit, f"{folder}/memory.current": usage, f"{folder}/memory.stat": stat}


def version_1(folder, limit, usage, inactive=0):
    stat = f"cache 5\ninactive_file 1\ntotal_inactive_file {inactive}"
    numbers = {f"{folder}/memory.limit_in_bytes": limit, f"{folder}/memory.usage_in_bytes": usage}
    return {**numbers, f"{folder}/memory.stat": stat}


V2, V1 = "sys/fs/cgroup", "sys/fs/cgroup/memory"


def test_without_limits_it_is_what_the_system_says(machine, monkeypatch, tmp_path):
    assert free_in_cpu_memory(machine({})) == 8 * GB // 1024 * 1024
    machine({"proc/meminfo": "MemTotal: 4000 kB"})
    monkeypatch.setattr(os, "sysconf", {"SC_AVPHYS_PAGES": 7, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert free_in_cpu_memory(tmp_path) == 7 * 4096
    assert free_in_cpu_memory(tmp_path / "nowhere") == 7 * 4096  # as on a system without /proc
    monkeypatch.delattr(os, "sysconf")
    assert free_in_cpu_memory(tmp_path) is None


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (version_2(V2, 4 * GB, 3 * GB), 1 * GB),
        (version_2(V2, 4 * GB, 3 * GB, inactive=2 * GB), 3 * GB),  # page cache is given back
        (version_2(V2, 4 * GB, 5 * GB), 0),  # a limit that was lowered
        (version_2(V2, "max", 3 * GB), None),
        (version_1(V1, 4 * GB, 3 * GB, inactive=GB), 2 * GB),
        (version_1(V1, 9223372036854771712, 3 * GB), None),  # how version 1 says that there is no limit
    ],
)
def test_the_limit_of_a_container_counts(machine, files, expected):
    root = machine({**files, "proc/self/cgroup": "4:memory:/docker/0123\n0::/"})  # a path of the host
    assert free_in_cpu_memory(root) == (8 * GB // 1024 * 1024 if expected is None else expected)


def test_the_tightest_group_around_the_process_counts(machine):
    root = machine(
        {
            "proc/self/cgroup": "0::/user.slice/job:7/step",
            **version_2(f"{V2}/user.slice/job:7/step", "max", GB),
            **version_2(f"{V2}/user.slice/job:7", 6 * GB, 4 * GB),
            **version_2(f"{V2}/user.slice", 7 * GB, 4 * GB),
            **version_2(f"{V2}/user.slice/another", GB, GB),
        }
    )
    assert free_in_cpu_memory(root) == 2 * GB


def test_a_nested_group_of_version_1(machine):
    root = machine(
        {"proc/self/cgroup": "9:cpu,memory:/slurm/job_1\n3:cpuset:/x", **version_1(f"{V1}/slurm/job_1", 3 * GB, GB)}
    )
    assert free_in_cpu_memory(root) == 2 * GB


def test_unreadable_numbers_are_no_limit(machine):
    root = machine({"proc/self/cgroup": "nonsense", **version_2(V2, "?", "?")})
    assert free_in_cpu_memory(root) == 8 * GB // 1024 * 1024
