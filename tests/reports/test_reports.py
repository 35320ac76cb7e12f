"""The report programs: what they write, and what they do with damage and interruption."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from reports.experiments import EXPERIMENTS
from reports.page import committed_result
from reports.parts import dcgan, fcgan
from reports.recheck import COMMITTED
from reports.runner import FORMAT, _resume
from reports.shared.store import ForeignResultError, ensure_writable, read_json, set_aside, write_json
from reports.statistics import bootstrap_interval, p_above, verdict
from reports.summary import Summary, load_published
from reports.tables import number

ROOT = Path(__file__).parents[2]
NAME = "lqgan-accuracy"
IN_SENTENCES = "Table 9", "Table 11"  # of ICLR: cleansing tells their values in its findings, beside pictures


def reports(*arguments: str, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "reports", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


@pytest.fixture(scope="module")
def killed_and_resumed(tmp_path_factory):
    """A smoke run killed with SIGKILL after its first stored unit, then run again."""
    out = tmp_path_factory.mktemp("report folder")
    arguments = (NAME, "--preset", "smoke", "--out", str(out), "--device", "cpu")
    first = reports(*arguments)
    deadline = time.monotonic() + 200
    while not (kept := list(out.glob(f"{NAME}/units/*/*.json"))):
        assert time.monotonic() < deadline, "no unit of work was stored"
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    before = {path: path.stat().st_mtime_ns for path in kept}
    output = finish(reports(*arguments))
    return out, before, output


@pytest.fixture(scope="module")
def result(killed_and_resumed):
    out, _, _ = killed_and_resumed
    return json.loads((out / NAME / "result.json").read_text())


def test_a_killed_run_resumes_and_keeps_finished_units(killed_and_resumed):
    _, before, _ = killed_and_resumed
    assert before
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())


def test_the_program_says_where_the_report_is(killed_and_resumed):
    out, _, output = killed_and_resumed
    assert f"report: {out / 'index.html'}" in output
    assert "resource_tracker" not in output


def test_result_holds_the_contract_of_the_design(result):
    assert {"experiment", "preset", "provenance", "cells"} <= result.keys()
    for cell in result["cells"]:
        assert {"table", "row", "column", "published", "measured", "low", "high", "verdict"} <= cell.keys()
    rows = {cell["row"] for cell in result["cells"]}
    assert rows == {"ITD", "AID (M=10)", "AID (M=100)", "AID (M=inf)"}
    assert {"command", "versions", "device", "commit", "seconds", "cores"} <= result["provenance"].keys()
    assert [len(run["data"]) for run in result["runs"]] == [64, 64]


def test_itd_is_almost_perfect_in_the_smoke_run(result):
    taus = [c["measured"] for c in result["cells"] if c["table"] == "Table V" and c["row"] == "ITD"]
    errors = [c["measured"] for c in result["cells"] if c["table"] == "Relative error" and c["row"] == "ITD"]
    assert min(taus) > 0.99
    assert max(errors) < 0.05


def test_all_files_of_the_report_are_written(killed_and_resumed):
    out, _, _ = killed_and_resumed
    folder = out / NAME
    for name in ("result.json", "table.csv", "table.md", "table.tex", "figure.png", "figure.pdf"):
        assert (folder / name).stat().st_size > 500, name
    lines = list(csv.reader((folder / "table.csv").read_text().splitlines()))
    assert lines[0] == ["table", "row", "line", "2", "5", "10", "20", "50"]
    assert [line[2] for line in lines[1:4]] == ["measured", "published", "verdict"]


def test_the_page_is_self_contained(killed_and_resumed):
    out, _, _ = killed_and_resumed
    page = (out / "index.html").read_text()
    assert "<svg" in page
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert not re.search(r"@import|url\((?!#)", page)
    assert "python -m reports lqgan-accuracy --preset smoke" in page


def test_a_damaged_result_is_set_aside_named_and_rebuilt(killed_and_resumed, result):
    out, before, _ = killed_and_resumed
    path = out / NAME / "result.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    output = finish(reports(NAME, "--preset", "smoke", "--out", str(out), "--device", "cpu"))
    aside = path.with_name("result.json.set-aside-1")
    assert "not complete JSON" in output
    assert str(aside) in output
    assert aside.read_text() == whole[: len(whole) // 2]
    rebuilt = json.loads(path.read_text())
    assert rebuilt["runs"] == result["runs"]
    assert all(unit.stat().st_mtime_ns == written for unit, written in before.items())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe\x00", "cannot be read"),
        (b"", "not complete JSON"),
        (b"[1, 2]", "not a result of this program"),
        (b'{"experiment": "other"}', "'format' is None"),
        (json.dumps({"format": FORMAT, "experiment": "other"}).encode(), "'experiment' is 'other'"),
        (json.dumps({"format": FORMAT, "experiment": NAME, "settings_digest": "abc"}).encode(), "runs are damaged"),
    ],
)
def test_a_foreign_result_is_set_aside_and_never_overwritten(tmp_path, capsys, content, reason):
    path = tmp_path / "result.json"
    path.write_bytes(content)
    assert _resume(path, {"format": FORMAT, "experiment": NAME, "settings_digest": "abc"}) == []
    assert not path.exists()
    assert path.with_name("result.json.set-aside-1").read_bytes() == content
    printed = capsys.readouterr()
    assert reason in printed.out + printed.err


def test_setting_aside_twice_keeps_both(tmp_path):
    for text in ("one", "two"):
        (tmp_path / "result.json").write_text(text)
        set_aside(tmp_path / "result.json")
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["one", "two"]


def test_fewer_seeds_keep_those_that_are_there(killed_and_resumed, result):
    out, _, _ = killed_and_resumed
    finish(reports(NAME, "--preset", "smoke", "--out", str(out), "--device", "cpu", "--seeds", "1"))
    assert json.loads((out / NAME / "result.json").read_text())["runs"] == result["runs"]


def test_results_of_other_settings_are_set_aside(tmp_path, capsys):
    path = tmp_path / "result.json"
    write_json(path, {"settings_digest": "old", "runs": []})
    assert _resume(path, {"settings_digest": "new"}) == []
    printed = capsys.readouterr()
    assert "'settings_digest' is 'old', not 'new'" in printed.out + printed.err


def test_interrupting_leaves_exit_status_130(tmp_path):
    process = reports(NAME, "--preset", "smoke", "--out", str(tmp_path), "--device", "cpu", start_new_session=True)
    while not list(tmp_path.glob(f"{NAME}/units/*/*.json")) and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode in (0, 130)  # 0: it was done already
    if process.returncode == 130:
        assert "goes on from there" in output
    assert "Traceback" not in output


def test_an_unwritable_folder_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(SystemExit, match=re.escape(f"cannot write to {blocked / 'out'}")):
        ensure_writable(blocked / "out")


@pytest.mark.parametrize("arguments", [["nonsense"], ["--preset", "huge"], ["--seeds", "0"]])
def test_bad_arguments_exit_with_2_and_name_the_known_ones(arguments):
    process = reports(*arguments)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert any(known in output for known in (NAME, "smoke", "number of seeds"))


def test_a_result_file_is_whole_or_old(tmp_path):
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"a": float("nan")})
    assert read_json(path, {"a": 1}) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ForeignResultError, match="'a' is 1, not 2"):
        read_json(path, {"a": 2})


def test_the_verdict_follows_its_rule():
    judge = lambda low, high, **more: verdict(  # noqa: E731
        low, high, 0.5, (0.3, 0.8), 0.005, **{"comparable": True, "seeds": 3, **more}
    )
    assert judge(0.45, 0.55) == "agrees"
    assert judge(0.5049, 0.6) == "agrees"
    assert judge(0.51, 0.6) == "within spread"
    assert judge(0.1, 0.2) == "differs"
    assert judge(0.81, 0.9) == "differs"
    assert judge(None, None) == "not run"
    assert judge(0.45, 0.55, comparable=False) == "not comparable"
    assert judge(0.45, 0.55, seeds=2) == "too few seeds"
    assert verdict(0.1, 0.2, None, None, 0.005, comparable=True, seeds=3) is None


def test_the_bootstrap_interval_covers_the_mean_about_as_often_as_it_says():
    import numpy as np

    samples = np.random.default_rng(1).normal(size=(200, 40))
    intervals = [bootstrap_interval(sample) for sample in samples.tolist()]
    covered = np.mean([low <= 0 <= high for low, high in intervals])
    assert 0.88 <= covered <= 0.99
    assert bootstrap_interval([0.7]) == (0.7, 0.7)


def test_significance_needs_two_seeds_and_a_mean_above_zero():
    assert p_above([0.5]) is None
    assert p_above([1.0, 1.0]) == 0.25
    assert p_above([0.5, 0.6, 0.55]) == 0.125
    assert p_above([0.5, 0.6, 0.55, 0.7, 0.4, 0.5, 0.6]) < 0.01
    assert p_above([-0.5, -0.6, -0.55]) > 0.99


def test_numbers_print_as_in_the_paper():
    assert [number(value, 2) for value in (1.0, 0.183, -0.5, None)] == ["1.00", "0.18", "-0.50", "–"]
    assert [number(value, None) for value in (0.00123, 12345.0)] == ["1.2e-03", "1.2e+04"]


def test_the_published_table_is_complete_and_read_twice():
    published = load_published(NAME)
    assert len(published.cells) == 5 * 12
    # A second, independent reading: the column sums of Table V's means, and some cells of each row.
    sums = dict.fromkeys(EXPERIMENTS[NAME].columns(EXPERIMENTS[NAME].presets["paper"].settings), 0.0)
    for (_, _, column), cell in published.cells.items():
        assert cell["p10"] <= cell["p90"]
        sums[column] += cell["value"]
    expected = [4.61, 4.65, 4.45, 4.41, 3.65, 3.50, 3.28, 3.46, 3.40, 2.94, 3.28, 3.39]
    assert [round(total, 2) for total in sums.values()] == expected
    at = lambda row, column: tuple(published.cells["Table V", row, column][key] for key in ("value", "p10", "p90"))  # noqa: E731
    assert at("AID (M=10)", "10000") == (0.18, 0.02, 0.33)
    assert at("AID (M=100)", "2000") == (0.34, 0.0, 0.79)
    assert at("AID (M=1000)", "50") == (0.53, 0.19, 0.94)
    assert at("AID (M=10000)", "20") == (0.61, -0.50, 1.0)
    assert at("ITD", "2000") == (1.0, 0.99, 1.0)


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_every_published_cell_is_a_cell_of_the_paper_preset(experiment):
    settings = experiment.presets["paper"].settings
    cells = {
        (quantity.table, row, column)
        for quantity in experiment.quantities
        for row in (quantity.rows or experiment.rows)(settings)
        for column in (quantity.columns or experiment.columns)(settings)
    }
    published = {cell for cell in load_published(experiment.name).cells if cell[0] not in IN_SENTENCES}
    assert published <= cells


@pytest.mark.parametrize("streams", [dcgan.Streams, fcgan.Streams])
def test_the_streams_of_seeds_differ(streams):
    drawn = [state for seed in range(15) for state in streams.of(seed)]
    assert len(set(drawn)) == len(drawn)


def test_the_committed_result_is_of_todays_settings_and_has_ten_seeds():
    kept = committed_result(NAME)
    experiment = EXPERIMENTS[NAME]
    assert kept is not None
    assert kept["settings"] == experiment.presets["paper"].settings
    assert [run["seed"] for run in kept["runs"]] == list(range(10))
    assert kept["cells"] == json.loads(json.dumps(Summary(experiment, kept).cells()))
    itd = [cell["measured"] for cell in kept["cells"] if cell["row"] == "ITD" and cell["table"] == "Table V"]
    assert min(itd) >= 0.99


@pytest.mark.parametrize(
    ("changed", "within", "status", "said"),
    [
        (0.0, {}, 0, "identical"),
        (1e-9, {}, 0, "agrees to"),
        (0.01, {}, 1, "DIFFERS"),
        (0.01, {"Table V": 0.02}, 0, "agrees to"),
        (0.1, {"Table V": 0.02}, 1, "DIFFERS"),
    ],
)
def test_rechecking_compares_a_part_with_what_is_stored(changed, within, status, said, result, tmp_path, capsys):
    from reports.recheck import recheck

    altered = json.loads(json.dumps(result))
    cells = altered["runs"][0]["values"]["Table V"]["ITD"]
    column = next(iter(cells))
    cells[column] += changed
    write_json(tmp_path / NAME / "result.json", altered)
    part = replace(EXPERIMENTS[NAME], recheck={"stops": [2, 5], "terms": [10]}, recheck_within=within)
    assert recheck({NAME: part}, tmp_path, "cpu") == status
    printed = capsys.readouterr()
    assert f"{said}" in printed.out + printed.err
    assert json.loads((tmp_path / NAME / "result.json").read_text()) == altered


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_readme_links_an_experiments_result_or_says_that_it_was_not_run(name):
    [row] = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith(f"| `{name}` |")]
    there = (COMMITTED / f"{name}.json").exists()
    assert row.endswith(f"| [json](reports/results/{name}.json) |" if there else "| `not run` |")


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if (COMMITTED / f"{name}.json").exists()])
def test_a_committed_result_is_resumed_without_any_work(name, tmp_path, monkeypatch):
    from reports.runner import run

    committed = json.loads((COMMITTED / f"{name}.json").read_text())
    write_json(tmp_path / name / "result.json", committed)
    monkeypatch.setattr("reports.runner._run_seeds", lambda *given: iter(()) if not given[2] else pytest.fail("work"))
    seeds = [one["seed"] for one in committed["runs"]]
    again = run(EXPERIMENTS[name], committed["preset"], seeds, tmp_path, committed["device"], ["python"])
    assert again["runs"] == committed["runs"]
    assert "(commit " in again["provenance"]["code"]
