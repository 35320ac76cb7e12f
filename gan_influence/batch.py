"""What a step sees: the rows, latents and noise of its batch, and the weights of its rows."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from gan_influence import trees
from gan_influence.trees import Tree

__all__ = ["Batch", "Inputs"]


class Batch(NamedTuple):
    """What a schedule gives of a step.

    Attributes:
        indices: of the training rows; ``None`` stands for all of them.
        latents: a tree of tensors, first dimension the batch; ``None`` where the game takes none.
        noise: whatever else the step draws: what modules take as noise, dropout's masks, times of a diffusion.
    """

    indices: Int[Tensor, " batch"] | None
    latents: Tree = None
    noise: Tree = None


class Inputs(NamedTuple):
    """What a cost is handed, as ``batch``. Those of several runs have a leading dimension, but for ``time``.

    Attributes:
        rows: of the data's own form, at the batch's indices.
        latents, noise: as the schedule gives them.
        weights: what each row's cost is multiplied by, ``(*models, batch)``; a cost does not look at them.
        time: the step t, a float64 tensor.
        turn: t modulo the game's ``period``; a number, so that a cost may do another thing at another turn.
        indices: of the rows in the data, ``None`` where the batch is the whole of it; not there within a step.
    """

    rows: Tree
    latents: Tree
    noise: Tree
    weights: Float[Tensor, "*models batch"]
    time: Float[Tensor, ""]
    turn: int = 0
    indices: Int[Tensor, " batch"] | None = None

    @property
    def in_step(self) -> Inputs:
        """Without the indices, which no cost sees."""
        if self.indices is None:
            return self
        return Inputs(self.rows, self.latents, self.noise, self.weights, self.time, self.turn)

    def part(self, which: slice | Tensor, with_draws: bool = True) -> Inputs:
        """Some of its rows, beside their own draws: of latents and noise with as many entries as rows the same ones."""
        n = trees.length(self.rows)

        def own(leaf: Tensor) -> Tensor:
            return leaf[which] if with_draws and leaf.ndim and len(leaf) == n else leaf

        latents, noise = trees.mapped(own, self.latents), trees.mapped(own, self.noise)
        return Inputs(trees.take(self.rows, which), latents, noise, self.weights[..., which], self.time, self.turn)

    def of_batch(self, per_row: Float[Tensor, "*models N"]) -> Float[Tensor, "*models batch"]:
        """The entries of a per-row quantity that belong to this batch."""
        if self.indices is None:
            return per_row
        if self.indices.ndim == 1:
            return per_row[..., self.indices]
        return per_row.take_along_dim(self.indices.unsqueeze(1), dim=-1)

    def add_to_rows(self, per_row: Float[Tensor, "*stops N"], terms: Float[Tensor, "*stops batch"]) -> None:
        """Add the batch's terms to the rows they belong to, in place."""
        if self.indices is None:
            per_row += terms
        else:
            per_row.index_add_(-1, self.indices, terms.to(per_row.dtype))

    @classmethod
    def of_runs(cls, runs: list[Inputs], weights: Float[Tensor, "runs models N"]) -> Inputs:
        """The same step of several runs, with the weights of their models.

        Raises:
            ValueError: their batches differ in shape.
        """
        first = runs[0]
        try:
            rows, latents, noise, indices = (
                trees.stack([getattr(run, part) for run in runs]) for part in ("rows", "latents", "noise", "indices")
            )
        except (RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"the runs' batches of step {int(first.time)} differ in shape: {error}") from error
        stacked = cls(rows, latents, noise, first.weights, first.time, first.turn, indices)
        return stacked._replace(weights=stacked.of_batch(weights))

    def of_model(self, model: tuple[int, ...]) -> Inputs:
        """What one of the models sees: ``()`` where there is one, ``(model,)`` or ``(run, model)``."""
        if len(model) < 2:
            return self._replace(weights=self.weights[model])
        rows, latents, noise, indices = trees.take((self.rows, self.latents, self.noise, self.indices), model[0])
        return Inputs(rows, latents, noise, self.weights[model], self.time, self.turn, indices)
