"""``python -m bench.gpu``: on a machine with a GPU, in one command of bounded time: tests, benchmark, paper-size runs.

It runs ``pytest -m gpu``, ``python -m bench --device cuda``, a step of StyleGAN at 256 pixels and, in what is left of
the time, ``python -m reports`` on experiments at ``--preset paper``. Those are stopped when the time is up: what they
finished is kept unit by unit, in ``runs.tar.gz``, and a later run goes on from there, here or elsewhere, with
``python -m reports --merge``.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

from reports.shared.provenance import program, provenance, resolve_device
from reports.shared.store import ensure_writable, write_json

EXPERIMENTS = ("dcgan-accuracy", "dcgan-traceback", "dcgan-cleansing", "stylegan-accuracy", "stylegan-cleansing")
SHARES = {"tests": 0.25, "bench": 0.25, "stylegan": 0.15}  # of the time, at most; the runs have the rest
GRACE = 20.0  # seconds to stop and pack in


def main() -> int:
    arguments = _parser().parse_args()
    ensure_writable(arguments.out)
    device = resolve_device("cuda")
    begun, deadline = time.time(), time.time() + 60 * arguments.minutes - GRACE
    runs = arguments.out / "runs"
    python = [sys.executable, "-m"]
    commands = {
        "tests": [*python, "pytest", "-m", "gpu", "-p", "no:cacheprovider", "--continue-on-collection-errors", "tests"],
        "bench": [*python, "bench", "--device", "cuda", "--preset", "standard", "--out", str(arguments.out / "bench")],
    }
    of_stylegan = ["--rank", "16", "--device", "cuda", "--out", str(arguments.out / "bench")]
    commands["stylegan"] = [*python, "bench.stylegan", *of_stylegan]
    for name in arguments.experiments:
        data = ["--data", arguments.data] if arguments.data else []
        seeds = ["--seeds", str(arguments.seeds)] if arguments.seeds else []
        options = ["--preset", "paper", "--device", "cuda", "--out", str(runs), *data, *seeds]
        commands[name] = [*python, "reports", name, *options]
    steps: list[dict[str, Any]] = []
    for name, command in commands.items():
        if name in arguments.skip:
            continue
        left = deadline - time.time()
        limit = min(left, 60 * arguments.minutes * SHARES.get(name, 1.0))
        steps.append({"step": name, **_run(command, limit, arguments.out / f"{name}.log")})
        print(f"{name:20} {steps[-1]['outcome']:12} {steps[-1]['seconds']:8.1f} s", flush=True)
    if runs.exists():
        with tarfile.open(arguments.out / "runs.tar.gz", "w:gz") as archive:
            archive.add(runs, "runs")
    record = {**provenance(program("bench.gpu"), device), "seconds": round(time.time() - begun, 1)}
    write_json(arguments.out / "gpu.json", {"provenance": record, "steps": steps})
    return 1 if any(step["outcome"] == "failed" for step in steps) else 0


def _run(command: list[str], limit: float, log: Path) -> dict[str, Any]:
    """Run a command for at most ``limit`` seconds; its output goes into ``log``."""
    begun = time.time()
    if limit <= 0:
        return {"command": command[1:], "outcome": "not run", "seconds": 0.0}
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            outcome = "done" if process.wait(limit) == 0 else "failed"
        except subprocess.TimeoutExpired:
            outcome = "time is up"
            _stop(process)
    return {"command": command[1:], "outcome": outcome, "seconds": round(time.time() - begun, 1)}


def _stop(process: subprocess.Popen) -> None:
    """Ask first: a program that is interrupted stores what it has."""
    for request in (signal.SIGINT, signal.SIGKILL):
        os.killpg(process.pid, request)
        try:
            process.wait(GRACE / 2)
            return
        except subprocess.TimeoutExpired:
            continue


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu",
        description="On a GPU, in bounded time: the GPU tests, the benchmark, and what fits of the paper-size runs.",
    )
    parser.add_argument(
        "experiments",
        nargs="*",
        default=list(EXPERIMENTS[:1]),
        metavar="EXPERIMENT",
        help=f"which to run at --preset paper: {', '.join(EXPERIMENTS)} (default: the first)",
    )
    parser.add_argument("--minutes", type=float, default=9.5, help="for everything (default: %(default)s)")
    parser.add_argument(
        "--skip",
        action="append",
        choices=tuple(SHARES),
        default=[],
        help="what an earlier sitting has done already; may be given twice",
    )
    parser.add_argument("--seeds", type=int, metavar="K", help="how many seeds, instead of the preset's")
    parser.add_argument("--data", metavar="DIR", help="the data folder, as for python -m reports")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/gpu"),
        metavar="DIR",
        help="where to write; what is there of earlier runs is gone on with (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
