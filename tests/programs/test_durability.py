"""Work lasts: killed at any moment, on a full disk, in damaged files and in two processes at once, nothing is lost."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tqdm import tqdm

from reports.experiment import Experiment, Preset, Quantity
from reports.experiments import EXPERIMENTS
from reports.runner import run
from reports.shared.workers import processes

UNITS = [f"u{k}" for k in range(6)]
SEEDS = range(3)


def work(settings, seed, unit, device):
    time.sleep(0.002)
    return {"value": [seed * 1.5 + int(unit[1:]) / 3] * 40, "data": "d" * 64}


def combine(settings, records):
    return {"Sum": {"line": {"1": sum(record["value"][0] for record in records.values())}}}


TOY = Experiment(
    name="toy-work",
    title="",
    source="",
    description="",
    presets={"smoke": Preset({"size": 1}, seeds=3, as_published=False)},
    quantities=(Quantity("Sum", "", decimals=2),),
    rows=lambda settings: ["line"],
    columns=lambda settings: ["1"],
    row_heading="",
    column_heading="",
    units=lambda settings: UNITS,
    run_unit=work,
    combine=combine,
    figures=(),
    findings=lambda summary: [],
)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "toy-work", TOY)


def run_here(out, seeds=SEEDS):
    return run(TOY, "smoke", seeds, out, "cpu", ["python"], elsewhere=processes(1))


def kept(result):
    """What must be the same in every run: all but times."""
    text = json.dumps({key: result[key] for key in ("runs", "cells", "settings", "preset")})
    whole = json.loads(text)
    for one in whole["runs"]:
        del one["seconds"]
    return whole


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(EXPERIMENTS, "toy-work", TOY)
        return kept(run_here(tmp_path_factory.mktemp("undisturbed")))


def in_a_child(out, seeds=SEEDS):
    """The same in a process that can be killed: forked, so that nothing has to be imported."""

    def work_there():
        tqdm.set_lock(threading.RLock())  # the one that it was forked with is the parent's, who would wait for the dead
        run_here(out, seeds)

    child = multiprocessing.get_context("fork").Process(target=work_there)
    child.start()
    return child


def files(out):
    return [path for path in (Path(out) / "toy-work").rglob("*") if path.is_file() and not path.name.startswith(".")]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_fifty_kills_at_random_moments_lose_nothing(tmp_path, undisturbed):
    moments, killed = random.Random(0), 0
    for _ in range(50):
        child = in_a_child(tmp_path)
        child.join(moments.uniform(0.0, 0.03))
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            killed += 1
        child.join()
        for path in files(tmp_path):
            json.loads(path.read_text())  # whole, whenever it is looked at
    assert killed > 5
    assert kept(run_here(tmp_path)) == undisturbed
    assert not list((tmp_path / "toy-work").rglob("*.set-aside-*"))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_two_processes_on_one_folder_do_not_harm_each_other(tmp_path, undisturbed):
    children = [in_a_child(tmp_path, seeds) for seeds in ([0, 1], [1, 2], [2, 0])]
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert kept(json.loads((tmp_path / "toy-work/result.json").read_text())) == undisturbed
    assert kept(run_here(tmp_path)) == undisturbed


@pytest.mark.parametrize("seed", range(12))
def test_damaged_files_are_set_aside_and_computed_again(seed, tmp_path, undisturbed, capsys):
    run_here(tmp_path)
    draw = random.Random(seed)
    damaged = draw.sample(files(tmp_path), 4)
    for path in damaged:
        content = bytearray(path.read_bytes())
        at = draw.randrange(len(content))
        if draw.random() < 0.5:
            content = content[:at]
        else:
            content[at] ^= 1 << draw.randrange(7)
        path.write_bytes(content)
    (tmp_path / "toy-work/result.json").unlink(missing_ok=True)  # so that every unit is read
    assert kept(run_here(tmp_path)) == undisturbed
    printed = capsys.readouterr()
    for path in damaged:
        if "units" in path.parts:
            assert f"{path} cannot be used" in printed.out + printed.err
            assert path.with_name(f"{path.name}.set-aside-1").exists()


def test_a_unit_with_one_number_changed_is_noticed(tmp_path, undisturbed, capsys):
    run_here(tmp_path)
    path = next(path for path in files(tmp_path) if "units" in path.parts)
    content = json.loads(path.read_text())
    content["value"][0] += 1
    path.write_text(json.dumps(content))
    (tmp_path / "toy-work/result.json").unlink()
    assert kept(run_here(tmp_path)) == undisturbed
    printed = capsys.readouterr()
    assert f"{path} cannot be used: it is damaged: its checksum is wrong" in printed.out + printed.err


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 160 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k,mode=777", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_named_and_the_work_goes_on_when_there_is_room(small_disk, tmp_path, undisturbed):
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 122_000)
    with pytest.raises(OSError, match="No space left on device"):
        run_here(small_disk)
    there = [path for path in files(small_disk) if "units" in path.parts]
    assert there
    assert not list((small_disk / "toy-work").rglob(".seed-*"))  # nothing half written
    filler.unlink()
    before = {path: path.stat().st_mtime_ns for path in there}
    assert kept(run_here(small_disk)) == undisturbed
    assert {path: path.stat().st_mtime_ns for path in there} == before


def test_the_program_says_that_the_disk_is_full(small_disk):
    (small_disk / "filler").write_bytes(b"x" * 155_000)
    command = [sys.executable, "-m", "reports", "lqgan-accuracy", "--preset", "smoke", "--seeds", "1", "--jobs", "1"]
    ran = subprocess.run([*command, "--out", str(small_disk)], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert f"cannot write to {small_disk}: No space left on device. Finished units are kept: make room" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_unit_that_fails_is_named(tmp_path, monkeypatch):
    def failing(settings, seed, unit, device):
        if (seed, unit) == (1, "u3"):
            raise ZeroDivisionError("as planned")
        return work(settings, seed, unit, device)

    from dataclasses import replace

    monkeypatch.setitem(EXPERIMENTS, "toy-work", replace(TOY, run_unit=failing))
    with pytest.raises(ZeroDivisionError, match="as planned") as caught:
        run_here(tmp_path)
    assert caught.value.__notes__ == ["in toy-work, seed 1, unit u3"]
