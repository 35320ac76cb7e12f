"""What is written as text: a line a row, and the rows to be removed."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from gan_influence.harmfulness import members
from gan_influence.tool.problem import Problem

__all__ = ["group_sums", "write_removed", "write_scores"]


def write_scores(
    path: Path, problem: Problem, scores: Float[Tensor, " N"], harm: Float[Tensor, " N"], recommended: bool
) -> None:
    """``row, path, label, score, rank, harmful``: rank 1 is to be removed first.

    ``harmful`` is 1 where removing the row would improve the metric, and empty where scores are not to be trusted.
    """
    order = harm.argsort(descending=True, stable=True)
    ranks = order.argsort().add(1).tolist()
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["row", "path", "label", "score", "rank", "harmful"])
    for row, (score, rank) in enumerate(zip(scores.tolist(), ranks, strict=True)):
        harmful = str(int(harm[row] > 0)) if recommended else ""
        table.writerow([row, _of(problem.paths, row), _of(problem.labels, row), f"{score:.9g}", rank, harmful])
    path.write_text(text.getvalue(), encoding="utf-8")


def write_removed(path: Path, problem: Problem, removed: Sequence[int]) -> None:
    """A path a line, the most harmful first; or a row's number, where there are no paths."""
    lines = [str(row) if problem.paths is None else problem.paths[row] for row in removed]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def group_sums(
    problem: Problem, harm: Float[Tensor, " N"], removed: Sequence[int]
) -> list[tuple[str, int, int, float]]:
    """Of each label: its rows, how many of them are removed, and the sum of their harm; the most harmful first."""
    if problem.labels is None or len(set(problem.labels)) < 2:
        return []
    chosen, of_labels = set(removed), sorted(members(problem.labels, problem.size).items())
    found = [(label, len(rows), len(chosen.intersection(rows)), float(harm[rows].sum())) for label, rows in of_labels]
    return sorted(found, key=lambda group: -group[3])


def _of(names: tuple[str, ...] | None, row: int) -> str:
    return "" if names is None else names[row]
