"""The bench's report without a browser: what is checked, what is embedded, and what is derived from the data."""

from __future__ import annotations

import base64
import json
import logging
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import altair as alt
import jsonschema
import pytest
from PIL import Image

from bench.report import render
from bench.report.charts import charts, runtime
from bench.report.data import load_bench, page_data
from bench.report.findings import Findings
from bench.report.render import script_json
from bench.report.table import columns, number_text, rows
from support.bench_folder import SHAPES, bench_data, write_bench

ROOT = Path(__file__).resolve().parents[2]
FEW = [shape for shape in SHAPES if shape.name in ("calibrated", "adacache", "taylorseer", "pab", "euler")]


@pytest.fixture
def data() -> dict:
    return bench_data(FEW, ["a red circle </script><b>&"])


@pytest.fixture
def folder(tmp_path, data) -> Path:
    return write_bench(tmp_path / "bench", data)


class Scripts(HTMLParser):
    """Collects what stands inside of script elements, by id, and everything that would load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.texts: dict[str | None, str] = {}
        self.addresses: list[str] = []
        self._inside: str | None = None
        self._is_script = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.addresses += [values[name] for name in ("src", "href", "data", "poster") if values.get(name)]
        if tag == "script":
            self._is_script, self._inside = True, values.get("id")

    def handle_endtag(self, tag):
        self._is_script = self._is_script and tag != "script"

    def handle_data(self, text):
        if self._is_script:
            self.texts[self._inside] = self.texts.get(self._inside, "") + text


def point(data: dict, policy: str, budget: int) -> dict:
    return next(entry for entry in data["points"] if (entry["policy"], entry["budget"]) == (policy, budget))


def gains(data: dict, values: dict[tuple[str, int], float], table: str = "gain", key: str = "psnr") -> Findings:
    """Findings of ``data`` with these differences, each with an interval of 0.5 to either side, and no others."""
    for entry in data["points"]:
        mean = values.get((entry["policy"], entry["budget"]))
        difference = None if mean is None else {"mean": mean, "low": mean - 0.5, "high": mean + 0.5}
        entry[table] = {name: difference if name == key else None for name in entry[table]}
    return Findings(data)


def test_the_page_holds_everything_and_loads_nothing(folder, data):
    page = render(folder)
    assert page == folder / "index.html"
    scripts = Scripts(page.read_text(encoding="utf-8"))
    assert all(address.startswith(("#", "data:")) for address in scripts.addresses)
    shown = json.loads(scripts.texts["bench-data"])
    assert shown["showcase"][0]["prompt"] == data["showcase"][0]["prompt"]
    assert len(shown["charts"]["points"]) == len(data["points"]) + 1  # and the uncached video
    videos = json.loads(scripts.texts["video-data"])
    for video in data["showcase"][0]["videos"]:
        kind, _, content = videos[video["file"]].partition(",")
        assert kind == "data:video/mp4;base64"
        assert base64.b64decode(content) == (folder / video["file"]).read_bytes()


def test_no_style_or_script_names_another_host(folder):
    text = re.sub(r'"data:video[^"]*"', "", render(folder).read_text(encoding="utf-8")).replace(runtime(), "")
    hosts = set(re.findall(r"https?://[\w.]+", text))
    assert hosts <= {"https://vega.github.io"}  # the name of Vega-Lite's schema, which is not loaded
    assert "default-src 'none'; script-src 'unsafe-inline'; style" in text  # nor may Vega load anything
    assert not re.search(r"@import|url\(|\bfetch\(|XMLHttpRequest|\bimport\s", text)


def test_the_charts_are_valid_and_hold_the_results(data):
    made = charts(data)
    for name in ("quality", "gains"):
        jsonschema.validate(made[name], alt.load_schema())
    own = next(row for row in made["points"] if row["policy"] == "Calibrated (ours)" and row["budget"] == 8)
    expected = point(data, "calibrated", 8)
    assert own["psnr_low"] == expected["values"]["psnr"]["low"]
    assert own["gain_psnr_mean"] == expected["gain"]["psnr"]["mean"]


def test_the_table_holds_the_results(data):
    expected = point(data, "calibrated", 8)
    expected["gain"]["psnr"] = {"mean": -0.5, "low": -0.75, "high": -0.25}
    row = next(row for row in rows(data) if (row.policy, row.column) == ("calibrated", 8))
    cells = {(column.key, column.metric): cell for column, cell in zip(columns(data), row.cells, strict=True)}
    gain, psnr = cells["gain", "psnr"], cells["psnr", None]
    assert (gain.text, gain.interval, gain.kind.split()[-1]) == ("−0.50", "−0.75 to −0.25", "worse")
    assert psnr.text == f"{expected['values']['psnr']['mean']:.2f}"
    assert cells["videos", None].value == expected["num_videos"]
    assert [row.title for row in rows(data)[:2]] == ["Uncached, 30 steps", "Exact, 200 steps"]


@pytest.mark.parametrize(("value", "text"), [(-0.001, "0.00"), (1.5, "+1.50"), (-2, "−2.00")])
def test_numbers_have_a_true_minus_and_no_sign_at_zero(value, text):
    assert number_text(value, 2, "+") == text


def test_no_text_can_end_a_script_element():
    text = "</script><!-- <script> \u2028 & 'quoted'"
    written = script_json({"a": text})
    assert not set("<>&\u2028") & set(written)
    assert json.loads(written) == {"a": text}


def test_text_of_the_data_is_escaped(folder, data):
    data["title"] = "<b>bold</b> & more"
    (folder / "bench.json").write_text(json.dumps(data), encoding="utf-8")
    assert "<h1>&lt;b&gt;bold&lt;/b&gt; &amp; more</h1>" in render(folder).read_text(encoding="utf-8")


def test_an_older_page_is_replaced_whole(folder):
    (folder / "index.html").write_text("older", encoding="utf-8")
    render(folder)
    assert "older" not in (folder / "index.html").read_text(encoding="utf-8")
    assert sorted(path.name for path in folder.iterdir()) == ["bench.json", "index.html", "showcase"]


def test_a_missing_video_is_logged_and_left_out(folder, data, caplog):
    name = data["showcase"][0]["videos"][3]["file"]
    (folder / name).unlink()
    with caplog.at_level(logging.WARNING):
        text = render(folder).read_text(encoding="utf-8")
    assert f"1 videos of the showcase are missing, such as '{folder / name}'" in caplog.text
    assert name not in json.loads(Scripts(text).texts["video-data"])


def test_without_a_bench_the_error_says_what_writes_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no bench\.json in '.*'; scripts/bench\.py writes one"):
        render(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not of a bench: it lacks title, command"),
        ('{"title": ""}', "it lacks command, machine"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, text, message):
    (tmp_path / "bench.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        load_bench(tmp_path)


def test_numbers_that_json_lacks_are_missing_values(tmp_path, data):
    point(data, "calibrated", 8)["worst"]["psnr"] = float("nan")
    (tmp_path / "bench.json").write_text(json.dumps(data), encoding="utf-8")
    assert point(load_bench(tmp_path), "calibrated", 8)["worst"]["psnr"] is None


def test_steps_become_columns_without_those_that_say_nothing(data):
    data["showcase"][0]["videos"][0]["steps"] = [
        {"index": 0, "computed": True, "distance": None, "value": 0.123456789},
        {"index": 1, "computed": False, "distance": None, "value": None},
    ]
    steps = page_data(data)["showcase"][0]["videos"][0]["steps"]
    assert steps == {"index": [0, 1], "computed": [True, False], "value": [0.123457, None]}


def test_the_headline_names_the_best_of_each_budget(data):
    findings = gains(
        data,
        {
            ("calibrated", 8): 1.0, ("calibrated", 10): 3.0, ("calibrated", 12): 0.25, ("calibrated", 15): 2.0,
            ("taylorseer", 8): 1.5, ("taylorseer", 10): 2.0, ("euler", 20): -1.0,
        },
    )  # fmt: skip
    assert findings.headline == (
        "Calibrated (ours) has the best PSNR to uncached at 10, 12 and 15 of 30 computed steps, "
        "3.00, 0.25 and 2.00 dB above AdaCache at equal compute (the interval includes zero at 12); "
        "at 8 it is TaylorSeer, 1.50 dB above; at 20 it is AdaCache."
    )
    assert [best.policy["name"] for best in findings.bests] == [
        "taylorseer", "calibrated", "calibrated", "calibrated", "adacache",
    ]  # fmt: skip


def test_without_gains_the_best_mean_counts(data):
    for entry in data["points"]:
        entry["gain"] = None
        if entry["budget"] is not None:
            entry["values"]["psnr"]["mean"] = {"euler": 50.0}.get(entry["policy"], 40.0)
    assert Findings(
        data
    ).headline == "Fewer Euler steps has the best PSNR to uncached at 8, 10, 12, 15 and 20 of 30 " + ("computed steps.")


def test_lower_is_better_where_a_metric_says_so(data):
    data["metrics"] = [{"key": "psnr", "title": "Error", "unit": "", "digits": 1, "better": "lower"}]
    data["points"] = [entry for entry in data["points"] if entry["budget"] == 8]
    findings = gains(data, {("calibrated", 8): -2.0, ("taylorseer", 8): 1.0})
    assert findings.headline == (
        "Calibrated (ours) has the best Error at 8 of 30 computed steps, 2.0 below AdaCache at equal compute."
    )


def test_where_ours_is_behind_is_told_by_paired_differences(data):
    leads = {("taylorseer", 8): 1.25, ("taylorseer", 10): 0.25, ("euler", 8): 0.7, ("euler", 12): -1.0}
    findings = gains(data, leads, "to_best")
    losses = {loss.title: loss for loss in findings.losses}
    assert losses["PSNR to uncached"].phrases == ("TaylorSeer at 8 and 10* steps by 1.25 and 0.25 dB",)
    assert not losses["PSNR to uncached"].is_clear
    assert "SSIM to uncached" not in losses


def test_a_setting_without_a_budget_is_named_by_its_compute(data):
    for entry in data["points"]:
        entry["to_best"] = {}
    stray = next(entry for entry in data["points"] if entry["policy"] == "pab")
    stray["values"]["compute"]["mean"] = 17.23
    stray["to_best"] = {"psnr": {"mean": 2.0, "low": 1.0, "high": 3.0}}
    assert Findings(data).losses[0].phrases == ("PAB at 17.2 steps by 2.00 dB",)


def test_time_and_memory_are_compared_at_about_equal_compute(data):
    for entry in data["points"]:
        entry["to_best"] = {}
        entry["values"]["cache_mb"] = {"mean": 5.0, "low": 5.0, "high": 5.0}
        entry["values"]["denoise_seconds"] = {"mean": 1.0, "low": 0.9, "high": 1.1}
    point(data, "euler", 12)["values"]["cache_mb"] = {"mean": 0.0, "low": 0.0, "high": 0.0}
    point(data, "euler", 15)["values"] |= {
        "denoise_seconds": {"mean": 0.5, "low": 0.4, "high": 0.6}, "compute": {"mean": 9.0, "low": 9.0, "high": 9.0},
    }  # fmt: skip
    assert [(loss.title, loss.phrases) for loss in Findings(data).losses] == [
        ("Cache", ("Fewer Euler steps at 12 steps by 5.0 MB",))
    ]


def test_nothing_is_said_of_ours_where_others_were_not_compared_with_it(data):
    assert Findings({**data, "best": None}).losses == []
    assert Findings({**data, "best": "adacache"}).ours is None


def test_points_beyond_the_budgets_only_lengthen_curves(data):
    data["setting"]["budgets"] = [10, 12]
    findings = gains(data, {("calibrated", 8): 9.0, ("calibrated", 10): 1.0, ("taylorseer", 12): 2.0})
    assert [best.budget for best in findings.bests] == [10, 12]
    losses = gains(data, {("taylorseer", 8): 9.0, ("taylorseer", 12): 1.0}, "to_best").losses
    assert losses[0].phrases == ("TaylorSeer at 12 steps by 1.00 dB",)


def test_a_page_of_settings_without_budgets_is_written(folder, data):
    data["points"] = [{**entry, "budget": None} for entry in data["points"]]
    data["setting"]["budgets"] = []
    (folder / "bench.json").write_text(json.dumps(data), encoding="utf-8")
    assert "computed steps, " not in re.sub(r"<script.*", "", render(folder).read_text(encoding="utf-8"), flags=re.S)


def test_the_command_makes_the_page_and_a_picture_or_says_why_not(folder, tmp_path):
    command = [sys.executable, str(ROOT / "scripts/bench_report.py")]
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(f"wrote {folder}/index.html (")
    with Image.open(folder / "quality.png") as picture:
        shown = {color for _, color in picture.convert("RGB").getcolors(picture.width * picture.height)}
    assert picture.width > 1000
    assert {(255, 255, 255), (0x0B, 0x57, 0xD0), (0xC2, 0x41, 0x0C)} <= shown  # ours, and the baseline
    failed = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr == f"error: there is no bench.json in '{tmp_path}'; scripts/bench.py writes one\n"
