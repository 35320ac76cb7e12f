"""``python -m bench``: measure ratios of times and memory, write ``bench.json`` and a plot."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from bench.cases import cases
from bench.memory import KINDS, PEAKS, can_measure_peaks, measure_memory, measure_peaks
from bench.ratios import measure
from reports.shared.provenance import program, provenance, resolve_device
from reports.shared.store import ensure_writable, write_json

PAIRS = {"smoke": 1, "standard": 5}
STEPS_OF_MEMORY = {"smoke": 400, "standard": 2500}
GAMES = ("lqgan", "fcgan", "dcgan", "softmax")
COLOURS = {True: "C0", False: "C3", None: "C7"}


def main() -> int:
    arguments = _parser().parse_args()
    ensure_writable(arguments.out)
    device = resolve_device(arguments.device)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    ratios: list[dict[str, Any]] = []
    memory: list[dict[str, Any]] = []
    peaks: list[dict[str, Any]] = []
    record = {**provenance(program("bench"), device), "threads": torch.get_num_threads()}
    load = os.getloadavg()[0]
    for rows, measured in (
        (ratios, _ratios(arguments.preset, device, arguments.only)),
        (memory, _memory(arguments.preset, device, arguments.only)),
        (peaks, _peaks(arguments.preset, device, arguments.only)),
    ):
        for row in measured:
            rows.append(row)
            # processes that ran or waited besides this one, at the start and now
            loads = [round(one, 1) for one in (load, os.getloadavg()[0])]
            results = {"provenance": {**record, "load": loads}, "preset": arguments.preset}
            write_json(arguments.out / "bench.json", {**results, "ratios": ratios, "memory": memory, "peaks": peaks})
    _plot(ratios, arguments.out)
    print(f"results: {(arguments.out / 'bench.json').resolve()}")
    return 0


def _ratios(preset: str, device: str, games: list[str]) -> Iterator[dict[str, Any]]:
    wanted = [case for case in cases(preset, device) if _is_of(games, case.game)]
    for case in tqdm(wanted, desc="bench", unit="ratio"):
        row = {"name": case.name, "game": case.game, "device": device}
        row |= {**measure(case, device, PAIRS[preset]).summary(), "pairs": PAIRS[preset]}
        row |= {"target": case.target, "met": case.holds(row["median"])}
        tqdm.write(
            f"{case.name:60} {case.game:20} {row['median']:8.2f}  [{row['low']:.2f}, {row['high']:.2f}]  "
            f"processor {row['processor_median']:.2f}  {_shown(row['target'], row['met'])}"
        )
        yield row


def _memory(preset: str, device: str, games: list[str]) -> Iterator[dict[str, Any]]:
    for kind in tqdm(KINDS if _is_of(games, "fcgan") else (), desc="memory"):
        row = measure_memory(kind, device, STEPS_OF_MEMORY[preset])
        target = f"<= {row['limit']:g}" if row["limit"] else None
        tqdm.write(
            f"{row['name']:60} {row['game']:20} {row['states']:8.0f} states after {row['steps']} steps  "
            f"{_shown(target, row['met'])}"
        )
        yield row


def _peaks(preset: str, device: str, games: list[str]) -> Iterator[dict[str, Any]]:
    if not _is_of(games, "dcgan"):
        return
    if not can_measure_peaks(device):
        print("peak memory: measured on Linux and on CUDA only")
        return
    for row in tqdm(measure_peaks(preset, device), desc="peak memory", total=len(PEAKS[preset])):
        terms = f", {row['terms']} terms" if row["terms"] else ""
        target = f"<= {row['limit']:g}" if row["limit"] else None
        tqdm.write(
            f"{row['name']:60} {row['game']:20} {row['peak_mebibytes']:8.1f} MiB, states {row['of_states']:.1f},"
            f" after {row['steps']} steps{terms}  {_shown(target, row['met'])}"
        )
        yield row


def _is_of(games: list[str], game: str) -> bool:
    return game.startswith(tuple(games))


def _shown(target: str | None, met: bool | None) -> str:
    return "" if target is None else f"target {target}, {'met' if met else 'missed'}"


def _plot(ratios: list[dict[str, Any]], out: Path) -> None:
    matplotlib.use("Agg")
    figure = Figure(figsize=(8, 0.6 * len(ratios) + 1.2), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(ratios):
        axes.barh(place, row["median"], color=COLOURS[row["met"]], alpha=0.7)
        axes.plot([row["low"], row["high"]], [place, place], "k-", linewidth=1.2)
        if row["target"] is not None:
            axes.plot([float(row["target"].split()[1])] * 2, [place - 0.4, place + 0.4], "k:", linewidth=1.2)
    axes.set_yticks(range(len(ratios)), [f"{row['name']}\n{row['game']}" for row in ratios], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("ratio of times: median, range over pairs, dotted: target")
    figure.savefig(out / "ratios.png", dpi=160)
    figure.savefig(out / "ratios.pdf", metadata={"CreationDate": None})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure ratios of times, interleaved in one run, and memory, and write bench.json.",
        epilog="See also python -m bench.adjoint_variants: the ways of computing an adjoint step, compared; "
        "python -m bench.solvers: products and time of the solvers of AID; and python -m bench.peers: the influence "
        "functions of other libraries.",
    )
    parser.add_argument("--preset", choices=tuple(PAIRS), default="standard", help="smoke: one pair; standard: five")
    parser.add_argument("--only", choices=GAMES, nargs="+", default=list(GAMES), help="these games; by default all")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), metavar="DIR", help="where to write")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    parser.add_argument("--threads", type=_threads, metavar="N", help="compute with N threads; by default one a core")
    return parser


def _threads(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number >= 1, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
