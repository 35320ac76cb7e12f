"""``python -m bench``: measure ratios of times and memory, write ``bench.json`` and a plot."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from bench.cases import CASES
from bench.memory import KINDS, measure_memory
from bench.ratios import measure
from reports.provenance import program, provenance, resolve_device
from reports.store import ensure_writable, write_json

PAIRS = {"smoke": 1, "standard": 5}
STEPS_OF_MEMORY = {"smoke": 400, "standard": 2500}


def main() -> int:
    arguments = _parser().parse_args()
    ensure_writable(arguments.out)
    device = resolve_device(arguments.device)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    pairs = PAIRS[arguments.preset]
    ratios: list[dict[str, Any]] = []
    for case in tqdm(CASES, desc="bench", unit="ratio"):
        measured = measure(case, device, pairs)
        bound, limit = case.limit
        row = {"name": case.name, "game": case.game, "device": device, **measured.summary(), "pairs": pairs}
        ratios.append({**row, "target": f"{bound} {limit:g}", "met": case.holds(row["median"])})
        tqdm.write(
            f"{case.name:54} {case.game:6} {row['median']:8.2f}  [{row['low']:.2f}, {row['high']:.2f}]  "
            f"target {bound} {limit:g}"
        )
    memory = [measure_memory(kind, device, STEPS_OF_MEMORY[arguments.preset]) for kind in tqdm(KINDS, desc="memory")]
    for row in memory:
        target = f"target <= {row['limit']:g}" if row["limit"] else ""
        print(f"{row['name']:54} {row['game']:6} {row['states']:8.0f} states after {row['steps']} steps  {target}")
    record = {**provenance(program("bench"), device), "threads": torch.get_num_threads()}
    results = {"provenance": record, "preset": arguments.preset, "ratios": ratios, "memory": memory}
    write_json(arguments.out / "bench.json", results)
    _plot(ratios, arguments.out)
    print(f"results: {(arguments.out / 'bench.json').resolve()}")
    return 0


def _plot(ratios: list[dict[str, Any]], out: Path) -> None:
    matplotlib.use("Agg")
    figure = Figure(figsize=(8, 0.6 * len(ratios) + 1.2), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(ratios):
        axes.barh(place, row["median"], color="C0" if row["met"] else "C3", alpha=0.7)
        axes.plot([row["low"], row["high"]], [place, place], "k-", linewidth=1.2)
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
        epilog="See also python -m bench.adjoint_variants: the ways of computing an adjoint step, compared.",
    )
    parser.add_argument("--preset", choices=tuple(PAIRS), default="standard", help="smoke: one pair; standard: five")
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
