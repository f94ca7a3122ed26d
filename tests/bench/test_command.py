"""The command: what it prints and writes, and its exit codes."""

from __future__ import annotations

import json
import re

import pytest

from portaloss import cli, machine

torch = pytest.importorskip("torch")
pytest.importorskip("threadpoolctl")

TINY = ("bench", "--kind", "mse", "--kind", "huber", "--size", "tiny", "--rounds", "2", "--threads", "1")


@pytest.mark.parametrize("load", [None, 0.0, 99.0])
def test_a_busy_machine_is_reported(load, capsys, monkeypatch):
    monkeypatch.setattr(machine, "load", lambda: load)
    monkeypatch.setattr(machine, "cores", lambda: 2)
    assert cli.main([*TINY, "--with", "eager"]) == 0
    assert capsys.readouterr().err.count("others are busy here (load 99.0, 2 cores)") == (load == 99.0)


def test_a_run(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    pytest.importorskip("rich")
    monkeypatch.setattr(machine, "load", lambda: 0.0)
    path = tmp_path / "a.json"
    assert cli.main([*TINY, "--dtype", "float16", "--json", str(path), "--picture", str(tmp_path / "a.svg")]) == 0
    said, errors = capsys.readouterr()
    assert said.splitlines()[-1] == "bench: 4 measured, 0 failed"
    assert errors == ""
    assert "huber" in said
    assert (tmp_path / "a.svg").stat().st_size > 5000  # an empty plot is smaller

    report = json.loads(path.read_text())
    assert report.keys() >= {"format", "date", "versions", "machine", "threads", "device", "reduction", "rounds"}
    assert report["versions"]["torch"]
    assert report["machine"]["processor"]
    assert report["threads"] == 1
    assert len(report["rows"]) == 4
    for line in report["rows"]:
        assert (line["dtype"], line["size"], line["shape"]) == ("float16", "tiny", [64])
        assert line["shapes"] == {"input": [64], "target": [64]}
        assert line["contenders"].keys() == {"portaloss", "arrays", "eager"}
        for found in line["contenders"].values():
            assert found.keys() >= {"median_s", "q1_s", "q3_s", "min_s", "rounds", "peak_extra_bytes"}
        assert line["speedups"]["portaloss"]["eager"] > 0
        assert line["speedups"]["arrays"]["eager"] > 0


def test_a_wrong_result_is_exit_code_1(tmp_path, capsys, monkeypatch):
    from portaloss import functional

    right = functional.mse_loss
    monkeypatch.setattr(functional, "mse_loss", lambda input, target: 1.001 * right(input, target))
    assert cli.main([*TINY, "--with", "eager", "--json", str(tmp_path / "a.json")]) == cli.FAILED
    said, errors = capsys.readouterr()
    assert said.splitlines()[-1] == "bench: 2 measured, 2 failed"
    assert "FAILED mse float32 64 forward_backward: portaloss: the loss is off" in errors
    assert [bool(line["error"]) for line in json.loads((tmp_path / "a.json").read_text())["rows"]] == [True] * 2 + [
        False
    ] * 2


def test_an_interrupted_run_leaves_its_lines(tmp_path, monkeypatch):
    from portaloss.bench import run

    measure = run.measure
    monkeypatch.setattr(run, "measure", lambda spec, settings: _until_huber(measure, spec, settings))
    assert cli.main([*TINY, "--json", str(tmp_path / "a.json")]) == cli.INTERRUPTED
    assert [line["kind"] for line in json.loads((tmp_path / "a.json").read_text())["rows"]] == ["mse", "mse"]


def _until_huber(measure, spec, settings):
    if spec.loss.name == "huber":
        raise KeyboardInterrupt
    return measure(spec, settings)


def test_compare(tmp_path, capsys):
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    assert cli.main([*TINY, "--json", str(a)]) == 0
    report = json.loads(a.read_text())
    for line in report["rows"]:
        if line["kind"] == "mse":
            for name in ("median_s", "q1_s", "q3_s"):
                line["contenders"]["portaloss"][name] *= 100
            line["speedups"]["portaloss"]["eager"] /= 100
    b.write_text(json.dumps(report))
    capsys.readouterr()

    assert cli.main(["bench", "compare", str(a), str(a)]) == 0
    assert capsys.readouterr().out == "bench compare: 4 lines compared, 0 worse\n"
    assert cli.main(["bench", "compare", str(a), str(b)]) == cli.FAILED
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == "bench compare: 4 lines compared, 2 worse"
    assert "mse float32 64 forward_backward" in said
    assert "100.00" in said
    assert "huber" not in said
    assert cli.main(["bench", "compare", str(b), str(a)]) == 0


def test_the_tables_of_a_report(tmp_path, capsys):
    path = tmp_path / "a.json"
    assert cli.main([*TINY, "--json", str(path)]) == 0
    shown = capsys.readouterr().out
    assert cli.main(["bench", "table", str(path)]) == 0
    assert capsys.readouterr().out == shown[: shown.rindex("bench: ")]

    assert cli.main(["bench", "table", str(path), "--markdown"]) == 0
    text = capsys.readouterr().out
    tables = [block.splitlines() for block in re.split(r"\n\s*\n", text) if block.startswith("|")]
    assert len(tables) == 2  # the kinds, and the means
    for table in tables:
        cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]
        assert {len(line) for line in cells} == {len(cells[0])}
        assert all(set(cell) <= set("-:") for cell in cells[1])
    written = json.loads(path.read_text())["rows"][1]
    assert written["direction"] == "forward_backward"
    (line,) = [line for line in tables[0] if line.startswith(f"| {written['kind']} ")]
    assert f"{written['speedups']['portaloss']['eager']:.2f}" in line


def test_growth(tmp_path, capsys):
    path = tmp_path / "a.json"
    argv = ["bench", "growth", "--kind", "mse", "--most", "400000", "--rounds", "1", "--threads", "1"]
    assert cli.main([*argv, "--with", "eager", "--json", str(path), "--picture", str(tmp_path / "a.svg")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "bench: 4 measured, 0 failed"
    report = json.loads(path.read_text())
    assert [one["contender"] for one in report["growth"]] == ["portaloss", "eager"]
    assert report["growth"][0]["sizes"] == [100000, 316228]
    assert all(one > 0 for one in report["growth"][0]["seconds_per_element"])
    assert (tmp_path / "a.svg").exists()


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--kind", "hube"], "hube"),
        (["--json", "nowhere/a.json"], "nowhere"),
        (["--picture", "a.txt"], "must end in one of"),
        (["growth", "--kind", "multi_margin"], "multi_margin"),
        (["compare", "missing.json", "missing.json"], "missing.json"),
        (["table", "missing.json"], "missing.json"),
    ],
)
def test_bad_usage_is_exit_code_2_and_names_what_is_bad(args, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["bench", *args]) == cli.USAGE
    said, errors = capsys.readouterr()
    assert named in errors
    assert said == ""


def test_reports_with_nothing_in_common_are_not_compared(tmp_path, capsys):
    for name, kind in (("a", "mse"), ("b", "l1")):
        argv = ["bench", "--kind", kind, "--size", "tiny", "--rounds", "1", "--with", "eager", "--threads", "1"]
        assert cli.main([*argv, "--json", str(tmp_path / f"{name}.json")]) == 0
    assert cli.main(["bench", "compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == cli.USAGE
    assert "no line in common" in capsys.readouterr().err


@pytest.mark.parametrize("option", [("--rounds", "0"), ("--threads", "-1"), ("--size", "giant"), ("--with", "nobody")])
def test_invalid_options(option, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(["bench", *option])
    assert exit.value.code == cli.USAGE
    assert option[1] in capsys.readouterr().err


def test_a_missing_gpu_is_reported(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["bench", "--device", "cuda"]) == cli.USAGE
    assert "sees no CUDA or HIP device" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["torch", "threadpoolctl"])
def test_a_missing_package_is_named(package, monkeypatch, capsys):
    from portaloss.bench import command

    monkeypatch.setattr(command, "find_spec", lambda name: None if name == package else object())
    assert cli.main(["bench"]) == cli.USAGE
    errors = capsys.readouterr().err
    assert f"needs {package}" in errors
    assert "portaloss[bench]" in errors
