"""Processes that understood different commands do not start."""

from __future__ import annotations

from opensora.cli.parallel import difference


def process(rank: int, problem: str | None = None, **entries: str) -> tuple[str, str | None, dict[str, str]]:
    return f"rank {rank}", problem, entries


def test_the_first_entry_that_differs_is_named_with_its_process():
    message = difference(
        [process(0, seed="1", dtype="a"), process(1, seed="1", dtype="a"), process(2, seed="2", dtype="a")]
    )
    assert message.startswith("rank 2 has seed 2 where rank 0 has 1")
    assert "same command" in message


def test_a_sample_that_is_missing_is_a_difference():
    message = difference([process(0, **{"sample a": "1"}), process(1)])
    assert message.startswith("rank 1 has sample a nothing where rank 0")


def test_a_problem_of_all_is_told_once_and_of_one_with_its_name():
    assert difference([process(0, "no such file"), process(1, "no such file")]) == "no such file"
    assert difference([process(0), process(1, "no such file")]) == "rank 1: no such file"
    assert difference([process(0, "no such file"), process(1)]) == "no such file"
