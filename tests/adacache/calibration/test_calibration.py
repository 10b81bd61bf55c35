import json
from dataclasses import replace

import pytest

from adacache.calibration.calibrate import _Parts
from adacache.calibration.calibration import Calibration, Point
from adacache.options import BridgeConfig
from adacache.policies.multistep import MultistepConfig
from adacache.policies.static import StaticScheduleConfig

# Of 10 steps at times 1000, 900, ..., 100 the fixture's schedules compute
#   4: 0 1 5 8 (1000 900 500 200), 5: 0 1 2 5 8, 6: 0 1 2 4 6 8, 8: 0 1 2 3 4 6 8 9.


def descending(num_steps: int) -> tuple[float, ...]:
    return tuple(1000 * (1 - step / num_steps) for step in range(num_steps))


def test_a_saved_calibration_is_read_back(calibration, tmp_path):
    calibration.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json") == calibration
    assert [path.name for path in tmp_path.iterdir()] == ["calibration.json"]


def test_the_measured_points_are_those_with_a_psnr(calibration):
    assert [len(point.computed_steps) for point in calibration.measured] == [4, 6, 8]
    assert calibration.num_steps == 10


def test_the_psnr_lies_on_the_line_through_the_measured_points(calibration):
    assert [calibration.psnr(count) for count in (4, 5, 6, 7, 8)] == [20, 25, 30, 35, 40]
    assert (calibration.psnr(2), calibration.psnr(9)) == (20, 40)


def test_the_speedup_counts_what_reused_steps_cost(calibration):
    assert calibration.speedup(10, 10) == 1
    assert calibration.speedup(4, 10) == pytest.approx(10 / (4 + 6 * 0.1))
    assert calibration.speedup(5, 30) == pytest.approx(30 / 7.5)
    assert replace(calibration, reused_cost=0).speedup(5, 30) == 6


@pytest.mark.parametrize("count", [4, 5, 6, 8])
def test_for_the_calibrated_steps_a_schedule_comes_back_as_it_is(calibration, count):
    [stored] = [point.computed_steps for point in calibration.points if len(point.computed_steps) == count]
    schedule = calibration.schedule(count, calibration.timesteps)
    assert schedule.computed_steps == stored
    assert (schedule.num_sampling_steps, schedule.bridge) == (10, calibration.bridge)


def test_a_point_with_a_bridge_of_its_own_is_bridged_by_it(calibration, tmp_path):
    own = BridgeConfig("linear", 1.0, max_ratio=0.5)
    first, *others = calibration.points
    bridged = replace(calibration, points=(replace(first, bridge=own), *others))
    bridged.save(tmp_path / "calibration.json")
    read = Calibration.load(tmp_path / "calibration.json")
    assert read == bridged
    assert read.schedule(len(first.computed_steps), read.timesteps).bridge == own
    assert read.schedule(len(others[0].computed_steps), read.timesteps).bridge == calibration.bridge


def test_times_that_differ_by_rounding_change_nothing(calibration):
    rounded = [time * (1 + 1e-6 * (-1) ** step) for step, time in enumerate(calibration.timesteps)]
    for point in calibration.points:
        assert calibration.schedule(len(point.computed_steps), rounded).computed_steps == point.computed_steps


@pytest.mark.parametrize(
    ("count", "timesteps", "expected"),
    [
        # Twice as many steps, 50 apart: those at the same times.
        (4, descending(20), (0, 2, 10, 16)),
        (6, descending(20), (0, 2, 4, 8, 12, 16)),
        # 1000 900 500 200: step 0 is taken by 1000, so that 900 goes to 850; 500 goes to 420.
        (4, (1000, 850, 620, 420, 200), (0, 1, 3, 4)),
        # 1000 900 800 600 400 200 onto steps that are rare at first: 900 takes 700, 800 has to take 500, 600 takes 400.
        (6, (1000, 700, 500, 400, 300, 200, 100), (0, 1, 2, 3, 4, 5)),
        # No schedule of 3: the one of 4 is stretched. Half way from 900 to 500 lies 700.
        (3, descending(10), (0, 3, 8)),
        # No schedule of 7: that of 6 is stretched to 1000 917 833 700 533 367 200.
        (7, descending(10), (0, 1, 2, 3, 5, 6, 8)),
        # Every step, and the first alone.
        (10, descending(10), tuple(range(10))),
        (5, descending(5), tuple(range(5))),
        (1, descending(10), (0,)),
    ],
)
def test_for_another_run_each_time_goes_to_the_nearest_free_step(calibration, count, timesteps, expected):
    schedule = calibration.schedule(count, timesteps)
    assert schedule.computed_steps == expected
    assert schedule.num_sampling_steps == len(timesteps)


def test_any_count_of_any_run_gives_as_many_different_steps_from_0_on(calibration):
    for num_steps in (1, 2, 7, 10, 13, 40):
        for count in range(1, num_steps + 1):
            steps = calibration.schedule(count, descending(num_steps)).computed_steps
            assert len(steps) == count
            assert steps[0] == 0
            assert list(steps) == sorted(set(steps))
            assert steps[-1] < num_steps


@pytest.mark.parametrize("count", [0, 6, -1])
def test_more_steps_than_there_are_are_refused(calibration, count):
    with pytest.raises(ValueError, match=f"cannot compute {count} of 5 steps"):
        calibration.schedule(count, descending(5))


@pytest.fixture
def combining(calibration) -> Calibration:
    """The same with coefficients for 4 and 6 computed steps, and no other counts."""
    points = [point for point in calibration.points if len(point.computed_steps) in (4, 6)]
    combined = [replace(p, coefficients=(((1.0,), (1.0,)),) * len(p.computed_steps)) for p in points]
    return replace(calibration, points=tuple(combined), aim="solution")


def test_coefficients_are_kept_and_hold_for_their_steps_only(combining, tmp_path):
    combining.save(tmp_path / "calibration.json")
    read = Calibration.load(tmp_path / "calibration.json")
    assert read == combining
    assert read.counts(10) == [2, 3, 4, 6, 10]
    point = read.points[0]
    expected = MultistepConfig(point.computed_steps, 10, coefficients=point.coefficients)
    assert read.schedule(4, [time * 1.000001 for time in read.timesteps]) == expected
    assert read.schedule(10, read.timesteps) == StaticScheduleConfig(tuple(range(10)), 10)
    for num_computed, timesteps in ((3, descending(10)), (4, descending(20)), (4, [1000 - 99 * i for i in range(10)])):
        schedule = read.schedule(num_computed, timesteps)
        assert type(schedule) is StaticScheduleConfig and len(schedule.computed_steps) == num_computed
        assert schedule.bridge == BridgeConfig("fitted", weight=0.5)


def test_a_file_of_the_first_format_is_read(calibration):
    data = calibration.to_dict()
    del data["aim"]
    for point in data["points"]:
        del point["coefficients"]
    assert Calibration.from_dict({**data, "format": 1}) == calibration
    assert calibration.counts(10) == range(2, 11)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", "{}", '{"num_steps": 30, "records": []}', "\xff"])
def test_other_files_are_refused_with_the_command_that_writes_one(tmp_path, text):
    path = tmp_path / "other.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"other\.json holds no calibration \(.+\); scripts/calibrate\.py writes one"):
        Calibration.load(path)


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        Calibration.load(tmp_path / "nowhere.json")


LEFT_OUT = object()
DAMAGES = [
    ("format", 3, "its format is 3, but this version reads 1 and 2"),
    ("aim", "perfection", "aim 'perfection' is unknown"),
    ("bridge", LEFT_OUT, "it lacks bridge"),
    ("bridges", {}, "unknown entry 'bridges', did you mean 'bridge'"),
    ("conditions", ["model"], "conditions must be a mapping"),
    ("conditions", None, "conditions must be a mapping"),
    ("details", "text", "details must be a mapping"),
    ("timesteps", [], "timesteps"),
    ("timesteps", "1000", "timesteps must be a list"),
    ("timesteps", None, "timesteps must be a list"),
    ("timesteps", [1000, "900"], "timesteps must be finite numbers"),
    ("timesteps", [1000, float("nan")], "timesteps must be finite numbers"),
    ("timesteps", list(range(10)), "timesteps must descend"),
    ("timesteps", [1000, 900, 800], "the run has steps 0 to 2"),
    ("bridge", "cubic", "bridge kind 'cubic' is unknown"),
    ("bridge", {"kind": "hold", "speed": 1}, "unknown bridge option 'speed'"),
    ("bridge", 3, "bridge must be"),
    ("reused_cost", None, "reused_cost must be a finite number"),
    ("reused_cost", "0.1", "reused_cost must be a finite number"),
    ("reused_cost", True, "reused_cost must be a finite number"),
    ("reused_cost", -0.7, "reused_cost must be a finite number >= 0"),
    ("points", None, "points must be a list"),
    ("points", {}, "points must be a list"),
    ("points", [], "no measured schedule"),
]


@pytest.mark.parametrize(("name", "value", "message"), DAMAGES)
def test_damaged_entries_are_named(calibration, name, value, message):
    data = calibration.to_dict()
    if value is LEFT_OUT:
        del data[name]
    else:
        data[name] = value
    with pytest.raises(ValueError, match=message):
        Calibration.from_dict(data)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"computed_steps": [1, 2, 3, 4]}, "must ascend from 0"),
        ({"computed_steps": [0, 3, 2, 4]}, "must ascend from 0"),
        ({"computed_steps": "0158"}, "must be a list of whole numbers"),
        ({"computed_steps": [0, 1.5, 3, 4]}, "must be a list of whole numbers"),
        ({"computed_steps": [0, True, 3, 4]}, "must be a list of whole numbers"),
        ({"computed_steps": None}, "must be a list of whole numbers"),
        ({"computed_steps": [0, 1, 5, 10]}, "the run has steps 0 to 9"),
        ({"computed_steps": [0, 1, 2, 5, 8]}, "must ascend in their number"),
        ({"psnr": "20"}, "three finite numbers or null"),
        ({"psnr": float("inf")}, "three finite numbers or null"),
        ({"psnr": None}, "three finite numbers or null"),
        ({"psnr_error": None}, "three finite numbers or null"),
        ({"psnr_lowest": None}, "three finite numbers or null"),
        ({"coefficients": [[[1.0]]]}, "a list for each of the 4 computed steps, got 1"),
        ({"coefficients": [[[float("inf")]]] * 4}, "finite numbers for each guidance half"),
        ({"quality": 3}, "unknown entry of a point 'quality'"),
    ],
)
def test_damaged_points_are_named(calibration, changed, message):
    data = calibration.to_dict()
    data["points"][0].update(changed)
    with pytest.raises(ValueError, match=message):
        Calibration.from_dict(data)


@pytest.mark.parametrize("point", [3, None, [0, 1], {}, {"psnr": 3}])
def test_what_is_no_point_is_named(calibration, point):
    data = calibration.to_dict()
    data["points"].append(point)
    with pytest.raises(ValueError, match="a point must have computed_steps, got"):
        Calibration.from_dict(data)


def test_without_a_measured_point_there_is_no_curve(calibration):
    unmeasured = replace(calibration, points=tuple(Point(point.computed_steps) for point in calibration.points))
    with pytest.raises(ValueError, match="no measured schedule"):
        Calibration.from_dict(json.loads(json.dumps(unmeasured.to_dict())))


def test_a_checkpoint_of_another_calibration_is_named_as_such(tmp_path, caplog):
    path = tmp_path / "kept.json"
    _Parts(path, {"seed": 1, "aim": "repeat"}).set("fit 6", [1])
    assert _Parts(path, {"seed": 1, "aim": "repeat"}).get("fit 6") == [1] and not caplog.messages
    assert _Parts(path, {"seed": 1, "aim": "solution"}).get("fit 6") is None
    assert f"{path} was made with another 'aim': the calibration begins anew" in caplog.text
