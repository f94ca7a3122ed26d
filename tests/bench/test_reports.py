"""What is made of lines: JSON, means, comparisons, growth, pictures."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from portaloss.bench import compare, growth, lines
from portaloss.bench.lines import Line, Report
from portaloss.kinds import LossKind
from portaloss.reports import ReportError

ABOUT = {
    "versions": {"torch": "2", "portaloss": "1"},
    "machine": {"processor": "a processor"},
    "threads": 2,
    "device": "cpu",
}


def times(median: float, spread: float = 0.02) -> dict[str, float]:
    return {
        "median_s": median,
        "q1_s": median * (1 - spread),
        "q3_s": median * (1 + spread),
        "peak_extra_bytes": 1 << 26,
    }


def line(ours: float = 1.0, eager: float | None = 4.0, **fields) -> Line:
    contenders = {"portaloss": times(ours), **({} if eager is None else {"eager": times(eager)})}
    known = {
        "kind": "mse", "dtype": "float32", "size": "large", "shape": [8, 8], "shapes": {"input": [8, 8]},
        "direction": "forward_backward", "gradients": ["input"], "gradient_bytes": 256, "moved_bytes": 768,
        "contenders": contenders,
    }  # fmt: skip
    known |= fields
    return Line(**{"speedups": lines.speedups(known["contenders"]), **known})


def report(*made: Line, **about) -> Report:
    return Report({**ABOUT, **about}, list(made))


def worse(before: Line, after: Line, **options) -> list[tuple[str, str]]:
    return [(change.contender, change.what) for change in compare.compare(report(before), report(after), **options)]


def test_a_report_is_read_as_it_was_written(tmp_path):
    made = report(line(), line(direction="forward", kind="huber"))
    made.write(tmp_path / "a.json")
    again = lines.read(tmp_path / "a.json")
    assert again.lines == made.lines
    assert again.about.items() >= made.about.items()
    assert [one["direction"] for one in again.about["geometric_means"]] == ["forward_backward", "forward"]


def test_files_that_are_not_reports_are_refused(tmp_path):
    path = tmp_path / "a.json"
    for text in ("", "[]", '{"format": 1}', '{"format": 99, "rows": []}', '{"format": 1, "rows": [{"kind": "mse"}]}'):
        path.write_text(text)
        with pytest.raises(ReportError, match=r"a\.json"):
            lines.read(path)


def test_means_are_geometric_and_without_failures():
    made = [line(1.0, 2.0), line(1.0, 8.0, kind="l1"), line(1.0, 100.0, kind="huber", error="wrong")]
    (mean,) = lines.geometric_means(made)
    assert mean["times_faster_than_eager"] == pytest.approx(4.0)
    assert mean["kinds"] == 2
    assert mean["memory_over_eager"] == pytest.approx(1.0)
    assert mean["times_faster_than_compile"] is None


def test_memory_beside_pytorch():
    found = {"portaloss": {**times(1.0), "peak_extra_bytes": 10}, "eager": {**times(1.0), "peak_extra_bytes": 40}}
    assert line(contenders=found).memory() == 0.25
    peaks = {"portaloss": {"peak_extra_bytes": 3 << 20}, "eager": {"peak_extra_bytes": 18 << 20}}
    assert line(contenders=peaks, gradient_bytes=2 << 20).memory_beyond_gradients() == 1 / 16
    assert line(contenders=peaks, gradient_bytes=2 << 20, direction="forward").memory_beyond_gradients() == 1 / 6
    assert line(contenders=peaks, gradient_bytes=17 << 20).memory_beyond_gradients() is None  # noise
    found["eager"]["peak_extra_bytes"] = None
    assert line(contenders=found).memory() is None


# What got slower


def test_a_slowdown_is_found():
    assert worse(line(1.0), line(1.2)) == [("portaloss", "time")]
    (change,) = compare.compare(report(line(1.0)), report(line(1.2)))
    assert change.factor == pytest.approx(1.2)
    assert worse(line(1.2), line(1.0)) == []  # faster
    assert worse(line(1.0), line(1.0)) == []


def test_noise_is_not_a_slowdown():
    assert worse(line(1.0), line(1.04)) == []  # within the threshold
    assert worse(line(1.0), line(1.04), threshold=0.01) == []  # 1.02 and 1.0192: the middle halves overlap
    assert worse(line(1.0), line(1.08), threshold=0.01) == [("portaloss", "time")]
    noisy = {"portaloss": times(1.2, spread=0.3), "eager": times(4.0)}
    assert worse(line(1.0), line(contenders=noisy)) == []  # the middle halves overlap
    assert worse(line(1.0, 4.0), line(1.5, 6.0)) == []  # the machine was slower, for PyTorch too
    assert worse(line(1.0, None), line(1.5, None)) == [("portaloss", "time")]  # there is nothing to compare with


def test_more_memory_and_wrong_results_are_found():
    more = {"portaloss": {**times(1.0), "peak_extra_bytes": 2 << 26}, "eager": times(4.0)}
    assert worse(line(), line(contenders=more)) == [("portaloss", "memory")]
    assert worse(line(), line(contenders={}, error="wrong")) == [("portaloss", "result")]
    assert worse(line(error="wrong"), line(error="wrong")) == []
    little = {"portaloss": {**times(1.0), "peak_extra_bytes": (1 << 26) + (1 << 20)}, "eager": times(4.0)}
    assert worse(line(), line(contenders=little)) == []


def test_only_lines_that_measure_the_same_are_compared():
    assert worse(line(1.0), line(9.0, shape=[8, 9])) == []
    assert compare.common(report(line()), report(line(shape=[8, 9]))) == 0
    assert compare.common(report(line(), line(kind="l1")), report(line())) == 1


def test_other_machines_are_named():
    notes = compare.differences(report(line()), report(line(), threads=4, machine={"processor": "another"}))
    assert notes == ["processor differs: a processor and another", "threads differs: 2 and 4"]
    assert compare.differences(report(line()), report()) == ["1 lines of the first report are not in the second"]
    assert compare.differences(report(line()), report(line())) == []


# Growth


def curve(exponent: float, overhead: float = 0.0) -> growth.Curve:
    sizes = [10**3, 10**4, 10**5, 10**6, 10**7, 10**8]
    return growth.Curve("elements", "mse", "float32", "portaloss", sizes, [(overhead + n**exponent) / n for n in sizes])


def test_the_exponent_of_a_power():
    assert curve(1.0).exponent == pytest.approx(1.0)
    assert curve(1.25).exponent == pytest.approx(1.25)
    assert curve(1.25).worst == pytest.approx(10 ** (0.25 * 5))
    # the fixed cost of a call is a hundredth at 10^6, which changes the exponent by 0.002
    assert curve(1.0, overhead=1e4).exponent == pytest.approx(1.0, abs=0.005)
    assert math.isnan(dataclasses.replace(curve(1.0), sizes=[10], per_unit=[1.0]).exponent)
    assert growth.as_dicts([dataclasses.replace(curve(1.0), sizes=[10], per_unit=[1.0])])[0]["exponent"] is None


def test_a_curve_is_made_of_a_kind_s_lines():
    made = [line(1e-3 * n, size=str(n), shape=[n], shapes={"input": [n]}) for n in (100, 10)]
    made += [line(size="10", direction="forward"), line(size="1000", error="wrong")]
    found = {one.contender: one for one in growth.curves(made)}
    assert found.keys() == {"portaloss", "eager"}
    assert found["portaloss"].sizes == [10, 100]
    assert found["portaloss"].per_unit == pytest.approx([1e-3, 1e-3])


def test_growth_s_kinds_and_sizes():
    kinds = [kind for kind in LossKind if growth.can_grow(kind)]
    assert {LossKind.MSE, LossKind.GAUSSIAN_NLL, LossKind.CTC, LossKind.CROSS_ENTROPY} <= set(kinds)
    found = growth.specs(kinds, ["float32"], "cpu", 10**8)
    assert {one.shape for one in found if one.kind is LossKind.MSE} >= {(10**5,), (10**8,)}
    assert max(one.shape[-1] for one in found if one.kind is LossKind.CROSS_ENTROPY) > 2e5
    assert max(one.shape[0] for one in growth.specs(kinds, ["float32"], "cpu", 10**6)) == 10**6


# Pictures


@pytest.mark.parametrize("made", [[line(), line(kind="l1", ours=9.0)], []], ids=["two kinds", "nothing"])
def test_the_picture_of_speedups(made, tmp_path):
    pytest.importorskip("matplotlib")
    from portaloss.bench import picture

    picture.speedups(report(*made), tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert text.count("<!-- times faster than PyTorch -->") == (1 if made else 0)
    assert ("<!-- mse -->" in text) == bool(made)
    assert ("<!-- l1 -->" in text) == bool(made)


def test_the_picture_of_growth(tmp_path):
    pytest.importorskip("matplotlib")
    from portaloss.bench import picture

    picture.growth([curve(1.0)], tmp_path / "a.svg")
    assert "<!-- mse, portaloss -->" in (tmp_path / "a.svg").read_text()


def test_json_has_no_nan(tmp_path):
    report(line()).write(tmp_path / "a.json")
    json.loads((tmp_path / "a.json").read_text(), parse_constant=lambda name: pytest.fail(name))
