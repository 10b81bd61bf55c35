"""The command that measures what TeaCache and MagCache need, on the bundled model."""

from __future__ import annotations

import json

import pytest

from scripts import fit_policies
from support import small_model


def test_what_it_prints_can_stand_in_a_config(tmp_path, capsys):
    output = tmp_path / "fit.json"
    call = [small_model.SAMPLE, "--clips", "2", "--batch-size", "2", "--output", str(output)]
    assert fit_policies.main([*call, "--cfg-options", "scheduler.num_sampling_steps=6"]) == 0
    fit = json.loads(output.read_text())
    assert (fit["num_steps"], fit["num_videos"], len(fit["magcache_ratios"])) == (6, 2, 5)
    assert all(0.5 < ratio < 2 for ratio in fit["magcache_ratios"])
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("cache = ")]
    caches = [eval(line.removeprefix("cache = "), {"dict": dict}) for line in printed]  # noqa: S307
    assert [cache["policy"] for cache in caches] == ["teacache", "magcache"]
    assert caches[0]["coefficients"] == pytest.approx(fit["teacache_coefficients"], rel=1e-6)
    assert caches[1]["ratios"] == pytest.approx(fit["magcache_ratios"], abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["configs/latte/sample.py"], "TeaCache and MagCache are fitted on STDiT3 alone, not Latte"),
        (["configs/mini/sampl.py"], "did you mean 'configs/mini/sample.py'"),
        ([small_model.SAMPLE, "--clips", "0"], "--clips is 0"),
        ([small_model.SAMPLE, "--prompt-path", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_wrong_calls_end_in_one_sentence(arguments, message, capsys):
    try:
        code = fit_policies.main(arguments)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
