"""What a claim is, and how all of them are run, timed, judged and stored. The claims themselves are in ``claims/``."""

from __future__ import annotations

import importlib
import json
import pkgutil
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from reports.shared.workers import worker_pool

__all__ = [
    "VERDICTS",
    "Claim",
    "Curve",
    "Outcome",
    "Plot",
    "as_read",
    "claim",
    "claims",
    "differences",
    "recorded",
    "recorded_verdicts",
    "run",
]

VERDICTS = ("holds", "corrected", "refuted", "not tested", "not run")
ERROR = "error"
"""The verdict of a claim whose check broke, which nothing records."""
RECORD = Path(__file__).parent / "recorded.json"

Number = float | int | str


@dataclass(frozen=True)
class Curve:
    """One line of a plot."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "o-"


@dataclass(frozen=True)
class Plot:
    """A picture of a claim, as data."""

    xlabel: str
    ylabel: str
    curves: list[Curve]
    xlog: bool = True
    ylog: bool = True


@dataclass(frozen=True)
class Outcome:
    """What a claim's computation found.

    Attributes:
        verdict: ``holds``, ``refuted``, ``corrected`` (false as printed, true as amended), ``not tested`` (a bound that
            no case came near) or ``not run``.
        measured, expected, tolerance: the numbers that decide.
        printed, amended: of a ``corrected`` claim: how the printed form fails (the witness), and what holds.
        control: of a claim that is not confirmed: what the same check says where the printed form must pass, or the
            amended one must not, so that it is the statement that fails and not the check.
        largest, floor: of a bound: the largest error / bound over all cases, and the least that counts as a test.
        numbers: whatever else a reader should see, by name.
        plot: a picture, where one says it best.
    """

    verdict: str
    measured: Number
    expected: Number
    tolerance: Number = ""
    printed: str = ""
    amended: str = ""
    numbers: Mapping[str, Number] = field(default_factory=dict)
    plot: Plot | None = None
    control: str = ""
    largest: Number = ""
    floor: Number = ""

    def __post_init__(self) -> None:
        if self.verdict not in (*VERDICTS, ERROR):
            raise ValueError(f"verdict must be one of {', '.join(VERDICTS)}, got {self.verdict!r}")
        if self.verdict == "corrected" and not (self.printed and self.amended):
            raise ValueError("a corrected claim shows both: how the printed form fails and what holds instead")


Compute = Callable[[str], Outcome]


@dataclass(frozen=True)
class Claim:
    """One statement of a paper that can be settled by computation; the fields as in :func:`claim`."""

    id: str
    source: str
    statement: str
    kind: str
    formula: str
    section: str
    compute: Compute
    explanation: str
    reading: str
    idea: str
    smallest: str


_CLAIMS: dict[str, Claim] = {}


def claim(
    id: str,
    source: str,
    statement: str,
    kind: str,
    formula: str = "",
    *,
    reading: str = "",
    idea: str = "",
    smallest: str = "",
) -> Callable[[Compute], Compute]:
    """Register ``compute(preset) -> Outcome`` as the check of a claim.

    Args:
        id: as on the command line.
        source: where the claim stands.
        statement: the claim, in a sentence.
        kind: ``identity``, ``order``, ``bound``, ``complexity``, ``assumption``, ``convergence`` or ``algorithm``.
        formula: the statement as a formula, in matplotlib's mathtext without the dollars.
        reading: how the statement is read, where it can be read in more than one way.
        idea: why it holds: the proof in a sentence or two.
        smallest: why no smaller amendment of a statement that fails would do.
    """

    def register(compute: Compute) -> Compute:
        if id in _CLAIMS:
            raise ValueError(f"two claims are called {id!r}")
        section = compute.__module__.rsplit(".", 1)[-1]
        explanation = " ".join((compute.__doc__ or "").split())
        texts = (explanation, reading, idea, smallest)
        _CLAIMS[id] = Claim(id, source, statement, kind, formula, section, compute, *texts)
        return compute

    return register


def claims() -> dict[str, Claim]:
    """All claims, by identifier, in the order of the sections."""
    from verification import claims as package

    for module in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
        importlib.import_module(f"{package.__name__}.{module}")
    order = {name: place for place, name in enumerate(package.SECTIONS)}
    return dict(sorted(_CLAIMS.items(), key=lambda item: order[item[1].section]))


def recorded() -> dict[str, dict[str, Number]]:
    """What the repository records of each claim: its verdict, and the tolerance and floor that it was reached with.

    So a check that is made easier to pass is a difference of this file, and an exit status, too.
    """
    found: dict[str, dict[str, Number]] = json.loads(RECORD.read_text())
    return found


def recorded_verdicts() -> dict[str, str]:
    """The verdict that the repository records for each claim."""
    return {id: str(one["verdict"]) for id, one in recorded().items()}


def differences(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """In what these entries of the ledger are not as the repository records them, a line each."""
    known, found = recorded(), []
    for one in entries:
        own = known.get(one["id"], {})
        for what in ("verdict", "tolerance", "floor"):
            if one[what] != own.get(what):
                measured = f" (measured {one['measured']})" if what == "verdict" else ""
                found.append(f"{one['id']}: {what} {one[what]}{measured}, but recorded as {own.get(what, 'nothing')}")
    return found


def run(ids: Iterable[str], preset: str) -> list[dict[str, Any]]:
    """Compute these claims in parallel processes, each with one thread, and return their entries in order."""
    ids = list(ids)
    entries: dict[str, dict[str, Any]] = {}
    with worker_pool(len(ids)) as pool, tqdm(total=len(ids), desc="verification", unit="claim") as bar:
        pending = {pool.submit(entry, id, preset): id for id in ids}
        for future in as_completed(pending):
            entries[pending[future]] = future.result()
            bar.update()
    return [entries[id] for id in ids]


def entry(id: str, preset: str) -> dict[str, Any]:
    """One claim's entry of the ledger. A claim whose check breaks gets the verdict ``error``."""
    one = claims()[id]
    begun = time.perf_counter()
    try:
        with warnings.catch_warnings():
            # Claims measure what this says of a broken core themselves; theirs is to be the number that shows it.
            warnings.filterwarnings("ignore", message="the second derivative of a step of training")
            outcome = one.compute(preset)
    except Exception as error:  # the ledger reports a broken check as such, and goes on with the others
        outcome = Outcome(ERROR, f"{type(error).__name__}: {error}", "")
    return {
        "id": one.id,
        "source": one.source,
        "statement": one.statement,
        "kind": one.kind,
        **{name: getattr(outcome, name) for name in ("verdict", "measured", "expected", "tolerance")},
        "seconds": round(time.perf_counter() - begun, 2),
        "formula": one.formula,
        "section": one.section,
        "explanation": one.explanation,
        "reading": one.reading,
        "idea": one.idea,
        "smallest": one.smallest,
        **{name: getattr(outcome, name) for name in ("printed", "amended", "control", "largest", "floor")},
        "numbers": dict(outcome.numbers),
        "plot": None if outcome.plot is None else _plot_data(outcome.plot),
    }


def _plot_data(plot: Plot) -> dict[str, Any]:
    return {
        "xlabel": plot.xlabel,
        "ylabel": plot.ylabel,
        "xlog": plot.xlog,
        "ylog": plot.ylog,
        "curves": [{"label": c.label, "x": list(c.x), "y": list(c.y), "style": c.style} for c in plot.curves],
    }


def as_read(value: Number) -> str:
    """A number of an entry as it is read: four digits, three where they are written with an exponent."""
    if isinstance(value, float):
        return f"{value:.4g}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.2e}"
    return str(value)
