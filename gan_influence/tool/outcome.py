"""What came of it, for the summary and the files."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from gan_influence.tool.demonstration import Demonstration
from gan_influence.tool.judging import Judgement
from gan_influence.validation import Agreement

__all__ = ["Outcome"]


@dataclass(frozen=True, eq=False)
class Outcome:
    """All that the summary tells.

    Attributes:
        scores, harm: one a row, as estimated, and so that higher is to be removed first.
        agreement: whether scores are to be trusted.
        recommended: whether removals are.
        removed: the rows, the most harmful first; none where they are not recommended.
        last: how many last steps were traced back, ``None`` is all.
        groups: label, rows, rows removed, sum of the harm.
        demonstration: what was found of planted rows, where some were planted.
        judgement: of the retraining.
        saved: the file of the cleansed generator.
    """

    scores: Float[Tensor, " N"]
    harm: Float[Tensor, " N"]
    agreement: Agreement
    recommended: bool
    removed: list[int]
    last: int | None
    groups: list[tuple[str, int, int, float]]
    demonstration: Demonstration | None = None
    judgement: Judgement | None = None
    saved: str | None = None
