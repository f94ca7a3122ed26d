"""Reports of the parity matrix: written and read as JSON, merged, and shown as a table and as a page."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from portaloss.parity import report
from portaloss.parity.lines import FORMAT, Line, merge, read, summary, write
from portaloss.reports import ReportError


def line(sku="huber-float32-none-forward", status="passed", **changes):
    kind, dtype, reduction, direction = sku.rsplit("-", 3)
    made = Line(
        sku=sku,
        kind=kind,
        dtype=dtype,
        reduction=reduction,
        direction=direction,
        backend="cpu",
        architecture="x86_64",
        device="a processor",
        versions={"python": "3.12.1", "torch": None},
        cases=30,
        bound_ulp=4.0,
        worst_ulp=1.25,
        worst_relative=1e-7,
        worst_case="kinks",
        worst_seed=7,
        torch_ulp=2.5,
        torch_relative=2e-7,
        torch_cases=30,
        torch_mismatches=0,
        status=status,
    )
    return replace(made, **changes)


GPU = {"backend": "triton", "device": "a GPU", "architecture": "sm_90"}
ABSENT = {"backend": "triton", "device": "", "architecture": "", "status": "absent", "reason": "no GPU <here>"}


def test_a_report_is_read_as_it_was_written(tmp_path):
    lines = [line(), line(status="failed", worst_ulp=None, failures=["kinks: wrong"], failed_cases=1), line(**ABSENT)]
    write(lines, tmp_path / "a.json")
    assert read(tmp_path / "a.json") == lines
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]  # no temporary file is left
    written = json.loads((tmp_path / "a.json").read_text())
    assert [one["passed"] for one in written["rows"]] == [True, False, False]


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.json"
    write([line()], path)
    before = path.read_text()
    with pytest.raises(ValueError, match="JSON"):
        write([line(worst_relative=float("nan"))], path)
    assert path.read_text() == before
    assert [one.name for one in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "rows": [{"sku": 1}]}', '{"format": 1, "rows": [3]}']
)
def test_a_file_that_is_not_a_report_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ReportError, match=r"a\.json"):
        read(tmp_path / "a.json")


def test_another_format_is_refused(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"format": FORMAT + 1, "rows": []}))
    with pytest.raises(ReportError, match="format"):
        read(tmp_path / "a.json")


def test_merging_machines_keeps_both():
    merged, notes = merge([[line()], [line(device="another processor")], [line(**GPU)]])
    assert len(merged) == 3
    assert notes == []
    assert summary(merged) == "parity: 3 passed, 0 failed, 0 absent"


def test_equal_lines_are_merged():
    merged, notes = merge([[line()], [line()]])
    assert merged == [line()]
    assert notes == []


def test_of_two_contradicting_lines_the_worse_is_kept_with_a_note():
    failed = line(status="failed", worst_ulp=9.0)
    for pair in ([[line()], [failed]], [[failed], [line()]]):
        merged, notes = merge(pair)
        assert merged == [failed]
        assert len(notes) == 1
        assert "huber-float32-none-forward" in notes[0]
        assert "kept: failed" in notes[0]
    merged, _ = merge([[line(worst_ulp=2.0)], [line(worst_ulp=1.0)]])
    assert merged[0].worst_ulp == 2.0
    merged, _ = merge([[line(status="failed", worst_ulp=None)], [failed]])
    assert merged[0].worst_ulp is None  # no number is worse than any number


def test_absent_lines_are_dropped_where_another_machine_has_the_backend():
    merged, _ = merge([[line(), line(**ABSENT)], [line(**GPU)]])
    assert summary(merged) == "parity: 2 passed, 0 failed, 0 absent"
    other = {**ABSENT, "reason": "no driver", "versions": {"python": "3.13"}}
    merged, _ = merge([[line(**ABSENT)], [line(**other)]])
    assert summary(merged) == "parity: 0 passed, 0 failed, 1 absent"


def test_a_cell_shows_the_worst():
    assert report.cell([line(worst_ulp=0.5), line(worst_ulp=1.5)]) == "1.50"
    assert report.cell([line(worst_ulp=3.0), line(status="failed", worst_ulp=9.0)]) == "FAILED 1/2 (9.00)"
    assert report.cell([line(worst_ulp=3.0), line(status="failed", worst_ulp=None)]) == "FAILED 1/2 (wrong)"
    assert report.cell([line(**ABSENT)]) == "absent"


def test_the_table_has_every_kind_and_dtype(capsys):
    lines = [line(), line("nll-float16-mean-backward", status="failed", worst_ulp=17.0), line(**ABSENT)]
    report.print_tables(lines)
    text = capsys.readouterr().out
    for piece in ("huber", "nll", "float16", "float32", "1.25", "FAILED 1/1", "no GPU <here>", "a processor"):
        assert piece in text


def test_the_page_is_one_file_and_says_what_failed(tmp_path):
    failure = "kinks: loss: 17 ulp at [3] & more"
    lines = [
        line(),
        line("nll-float16-mean-backward", status="failed", worst_ulp=17.0, failures=[failure], failed_cases=1),
        line("nll-float16-mean-forward", torch_ulp=None, torch_relative=None, torch_cases=0),
        line(**ABSENT),
    ]
    report.write_page(lines, tmp_path / "a.html", summary(lines))
    page = (tmp_path / "a.html").read_text()
    assert "parity: 2 passed, 1 failed, 1 absent" in page
    assert "17 ulp at [3] &amp; more" in page
    assert "no GPU &lt;here&gt;" in page
    assert "huber-float32-none-forward:kinks" in page
    assert "prefers-color-scheme: dark" in page
    for outside in ("http:", "https:", "<script", "<link", "@import", "url("):
        assert outside not in page


def test_without_rich_and_jinja2_the_error_names_the_extra():
    code = """
import sys
sys.modules["rich"] = sys.modules["jinja2"] = None
from portaloss.parity import report
for call in (lambda: report.print_tables([]), report.require_page):
    try:
        call()
    except ImportError as error:
        print(error)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.count("portaloss[parity]") == 2
