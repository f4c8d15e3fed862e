"Calibration: the point that fixes a speed is met exactly, and what others have done is left out."

import pytest

from effdl_nb.budget import devices
from effdl_nb.budget.devices import Point, calibrated, calibrations, ratios, seconds_of
from effdl_nb.budget.passes import NetworkShape, Work

ONE = NetworkShape("kernel", 1, 1, 1)  # 3 products, 6 operations a pass


def point(seconds: float, device: str = "d", **flops: float) -> Point:
    works = tuple(Work(kind, "", ONE, value / 6) for kind, value in flops.items())
    return Point("p", "t", "r", 0, (), device, seconds, 100, works)


@pytest.fixture(scope="module")
def measured() -> list[Point]:
    return devices.measured_points("laptop")


def test_measured_rows_are_met_exactly_where_they_fix_a_speed(measured):
    known = calibrations(measured)
    found = ratios(measured, known)
    anchors = [r for r in found if r.anchor]
    assert len(anchors) == sum(len(c.fixed_by) for c in known.values()) >= 4
    assert [r.ratio for r in anchors] == pytest.approx([1.0] * len(anchors))
    others = [r.ratio for r in found if not r.anchor and r.ratio is not None]
    assert len(others) > len(anchors) and min(others) > 0.05 and max(others) < 20


def test_a_second_row_of_shared_work_does_not_have_it_among_its_seconds(measured):
    own = [p for p in measured if p.profile == "laptop" and p.table == "table_4_b"]
    trained = [p for p in own if any(w.kind == "experts" for w in p.works)]
    assert len(trained) == 1 and {p.row for p in own} > {"mtt", "rank", "svd"}


def test_a_mixed_point_fixes_what_the_known_kinds_leave():
    points = [point(10, training=100), point(40, training=100, search=60)]
    assert calibrated(points).speeds == pytest.approx({"training": 10, "search": 2})
    assert [r.ratio for r in ratios(points, calibrations(points))] == pytest.approx([1, 1])


def test_the_median_of_the_large_points_is_taken():
    points = [point(t, training=100) for t in (10, 20, 1000)] + [point(1, training=1e-3)]
    fixed = calibrated(points)
    assert (
        fixed.speeds == pytest.approx({"training": 5}) and fixed.fixed_by["training"].seconds == 20
    )
    assert [r.ratio for r in ratios(points[:3], {"d": fixed})] == pytest.approx([2, 1, 0.02])


def test_a_kind_without_a_speed_has_no_estimate_and_is_named():
    points = [point(10, training=100), point(10, experts=1, search=1)]
    known = calibrations(points)
    assert [r.ratio for r in ratios(points, known)] == [pytest.approx(1), None]
    with pytest.raises(ValueError, match="speeds must have experts, search, not only training"):
        seconds_of(points[1].works, known["d"].speeds)
    with pytest.raises(ValueError, match="one device, not of d, e"):
        calibrated([point(1, training=1), point(1, "e", training=1)])


def test_gpus_are_assumed_and_scale_with_their_peak():
    a, h = (devices.assumed_speeds(gpu) for gpu in devices.PEAKS)
    low, high = devices.PEAKS.values()
    assert {kind: h[kind] / a[kind] for kind in a} == pytest.approx(dict.fromkeys(a, high / low))
    with pytest.raises(ValueError, match="gpu 'abacus' is unknown; allowed: A100"):
        devices.assumed_speeds("abacus")
