"""The same units on a Dask cluster: a real scheduler and real workers, on this machine."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("distributed")

ROOT = Path(__file__).parents[2]
NAME = "lqgan-initialisation"


def started(*command, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


@pytest.fixture
def cluster():
    """``(address, add_worker, processes)``."""
    scheduler = started(
        sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"
    )
    address = None
    for line in scheduler.stdout:
        found = re.search(r"Scheduler at:\s+(tcp://\S+)", line)
        if found:
            address = found[1]
            break
    assert address is not None
    processes = [scheduler]

    def add_worker():
        worker = started(
            sys.executable,
            "-m",
            "distributed.cli.dask_worker",
            address,
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
        )
        processes.append(worker)
        return worker

    yield address, add_worker, processes
    for process in processes:
        process.kill()
        process.wait()
        process.stdout.close()


def reports(out, *options):
    return started(
        sys.executable, "-m", "reports", NAME, "--preset", "smoke", "--out", str(out), "--device", "cpu", *options
    )


def finished(process, status=0):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == status, output
    return output


def numbers(out):
    result = json.loads((out / NAME / "result.json").read_text())
    return [(run["seed"], run["values"], run["data"], run["code"]) for run in result["runs"]], result["cells"]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    out = tmp_path_factory.mktemp("here")
    finished(reports(out, "--jobs", "1"))
    return numbers(out)


def units(out):
    return list(out.glob(f"{NAME}/units/*/seed-*.json"))


def wait_for(condition, process):
    while not condition() and process.poll() is None:
        time.sleep(0.02)


def test_a_cluster_gives_the_bits_of_this_machine_and_names_its_workers(cluster, tmp_path, here):
    address, add_worker, _ = cluster
    add_worker(), add_worker()
    finished(reports(tmp_path, "--scheduler", address))
    assert numbers(tmp_path) == here
    assert json.loads(units(tmp_path)[0].read_text())["processor"]


def test_a_worker_killed_within_a_unit_loses_nothing_and_one_may_join_late(cluster, tmp_path, here):
    address, add_worker, _ = cluster
    process = reports(tmp_path, "--scheduler", address)
    time.sleep(1.0)  # without any worker yet
    first = add_worker()
    wait_for(lambda: units(tmp_path), process)
    os.kill(first.pid, signal.SIGKILL)
    add_worker()
    finished(process)
    assert numbers(tmp_path) == here


def test_a_lost_scheduler_is_named_and_the_work_goes_on_without_it(cluster, tmp_path, here):
    address, add_worker, processes = cluster
    add_worker()
    process = reports(tmp_path, "--scheduler", address)
    wait_for(lambda: units(tmp_path), process)
    os.kill(processes[0].pid, signal.SIGKILL)
    output = finished(process, status=1)
    assert f"the scheduler {address} was lost" in output
    assert "Finished units are kept" in output
    assert "Traceback" not in output
    assert units(tmp_path)
    finished(reports(tmp_path, "--jobs", "1"))
    assert numbers(tmp_path) == here


def test_no_scheduler_is_an_error_that_names_the_address(tmp_path):
    output = finished(reports(tmp_path, "--scheduler", "tcp://127.0.0.1:9"), status=1)
    assert "--scheduler tcp://127.0.0.1:9: no scheduler answers there" in output
    assert "Traceback" not in output


def test_jobs_and_a_scheduler_exclude_each_other(tmp_path):
    output = finished(reports(tmp_path, "--scheduler", "tcp://127.0.0.1:9", "--jobs", "2"), status=2)
    assert "give either --jobs, processes here, or --scheduler" in output
