"""``python -m bench.against REVISION``: is this tree slower than an earlier one? Before and after in one run.

REVISION is checked out into a temporary ``git worktree``, and two processes live side by side, one on each tree. They
take the training step and the sweep step of LQGAN, FCGAN and DCGAN-8 in turn, so that a machine that speeds up or slows
down favours neither. ``against.json`` has the ratios after / before: medians and ranges over pairs, of the time that
passed and of the processor's.

Exit status: 0 if no median is above the limit, 1 if one is, 2 if there is no such revision.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from bench.steps import LENGTHS, STEPS
from reports.shared.provenance import program, provenance
from reports.shared.store import ensure_writable, write_json

__all__ = ["checked_out", "is_slower", "main"]

ROOT = Path(__file__).parents[1]
PAIRS = {"smoke": 1, "standard": 15}
KINDS = ("", "processor_")


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    ensure_writable(arguments.out)
    try:
        revision = _git("rev-parse", "--verify", "--quiet", "--end-of-options", arguments.revision + "^{commit}")
    except subprocess.CalledProcessError:
        parser.error(f"there is no revision {arguments.revision!r} in {ROOT}: give one that git rev-parse knows")
    pairs, ratios = arguments.pairs or PAIRS[arguments.preset], []
    with ExitStack() as stack:
        trees = stack.enter_context(checked_out(revision)), ROOT
        sides = [stack.enter_context(_process(tree, arguments.preset, arguments.threads)) for tree in trees]
        for side, tree in zip(sides, trees, strict=True):
            if (found := _answer(side)) != str(tree):
                raise RuntimeError(f"the process for {tree} imports gan_influence from {found}: is it installed there?")
        asked = [(game, step) for game in LENGTHS[arguments.preset] for step in STEPS]
        for game, step in tqdm(asked, desc="against", unit="ratio"):
            ratios.append({"name": step, "game": game, **_ratio(_pairs(sides, f"{game} {step}", pairs))})
            tqdm.write(_shown(ratios[-1]))
    record = {**provenance(program("bench.against"), "cpu"), "threads": arguments.threads}
    settings = {"revision": revision, "preset": arguments.preset, "pairs": pairs, "limit": arguments.limit}
    write_json(arguments.out / "against.json", {"provenance": record, **settings, "ratios": ratios})
    slower = [f"{row['name']} of {row['game']}" for row in ratios if is_slower(row, arguments.limit)]
    if slower:
        print(f"above {arguments.limit:g} times as long as in {arguments.revision}: {', '.join(slower)}")
    return 1 if slower else 0


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """A worktree of the revision, which is gone afterwards, whatever happens meanwhile."""
    with tempfile.TemporaryDirectory(prefix="against-") as folder:
        tree = Path(folder).resolve() / "before"
        try:
            _git("worktree", "add", "--detach", str(tree), revision)
            yield tree
        finally:
            if tree.exists():
                _git("worktree", "remove", "--force", str(tree))


def is_slower(row: dict[str, Any], limit: float) -> bool:
    """Is a median of a ratio above the limit?"""
    return any(row[f"{kind}median"] > limit for kind in KINDS)


def _git(*arguments: str) -> str:
    ran = subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True)
    return ran.stdout.strip()


@contextmanager
def _process(tree: Path, preset: str, threads: int) -> Iterator[subprocess.Popen[str]]:
    """``bench/steps.py`` of this tree on the ``gan_influence`` of another; -P keeps this folder out of its imports."""
    command = [sys.executable, "-P", str(ROOT / "bench" / "steps.py"), preset, str(threads)]
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": str(threads)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=tree, env=environment, start_new_session=True, **pipes)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _answer(process: subprocess.Popen[str]) -> str:
    line = process.stdout.readline()  # type: ignore[union-attr]
    if not line:
        raise RuntimeError(f"the process {process.pid} ended; what it printed stands above")
    return line.strip()


def _pairs(sides: list[subprocess.Popen[str]], request: str, pairs: int) -> np.ndarray:
    """Seconds, ``(pairs, sides, kinds)``; every other pair the other way round."""
    seconds = np.zeros((pairs, len(sides), len(KINDS)))
    for k in range(pairs):
        for side in (0, 1) if k % 2 == 0 else (1, 0):
            print(request, file=sides[side].stdin, flush=True)
            seconds[k, side] = json.loads(_answer(sides[side]))
    return seconds


def _ratio(seconds: np.ndarray) -> dict[str, float]:
    """After / before: medians and ranges."""
    found = {}
    for kind, ratios in zip(KINDS, (seconds[:, 1] / seconds[:, 0]).T, strict=True):
        for name, of in (("median", np.median), ("low", np.min), ("high", np.max)):
            found[kind + name] = float(of(ratios))
    before, after = np.median(seconds[:, :, 0], axis=0)
    return {**found, "before_seconds": float(before), "after_seconds": float(after)}


def _shown(row: dict[str, Any]) -> str:
    passed, processor = (f"{row[f'{k}median']:6.3f} [{row[f'{k}low']:.3f}, {row[f'{k}high']:.3f}]" for k in KINDS)
    return f"{row['name']:16} {row['game']:10} {passed}  processor {processor}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.against", description=(__doc__ or "").split("\n\n", 1)[1])
    parser.add_argument("revision", metavar="REVISION", help="a commit, tag or branch: what is compared with")
    parser.add_argument("--preset", choices=tuple(PAIRS), default="standard", help="smoke: unrecorded, one pair")
    parser.add_argument("--pairs", type=int, metavar="N", help="instead of the preset's")
    parser.add_argument("--limit", type=float, default=1.03, help="of every median (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of each process (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), metavar="DIR", help="where to write")
    return parser


if __name__ == "__main__":
    sys.exit(main())
