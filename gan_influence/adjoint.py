r"""One step of the reverse sweep. ITD and AID are loops around it.

A step of training is ``g = v_w(theta)``, ``state' = update(state, g)``. Given the cotangent of ``state'``:

1. pull it back through the (elementwise) update, which gives a direct part and the cotangent ``c`` of ``g``;
2. differentiate the scalar ``s(theta, w) = <c, v_w(theta)>`` once, in both arguments::

       grad_theta s = J(theta)^T c            grad_w s = the per-row terms of the whole batch, for nothing extra

For plain gradient descent ``c = -eta u`` and the new cotangent is ``u - eta J^T u = Z^T u`` (TNNLS Alg. 1, line 4).
No Jacobian and no per-row gradient is formed.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gan_influence.game import Game
from gan_influence.optim import Updates

__all__ = ["FieldGraph", "pull_back_step"]


class FieldGraph:
    """``v_w`` at one ``theta`` with its graph, or at a stack of independent ones, ready for products with ``J^T``.

    Args:
        game: whose field.
        theta: ``(d,)`` or ``(models, d)``.
        weights: ``(batch,)`` or ``(models, batch)``, to match.
        rows, latents: the batch.
    """

    def __init__(
        self,
        game: Game,
        theta: Float[Tensor, "*models d"],
        weights: Float[Tensor, "*models batch"],
        rows: Float[Tensor, "batch *instance"],
        latents: Float[Tensor, "n_z *latent"],
    ):
        self.game = game
        self.phi, self.psi = game.leaves(theta)
        self.weights = weights.detach().requires_grad_()
        self.parts = game.gradient(self.phi, self.psi, rows, latents, self.weights, create_graph=True)

    @property
    def value(self) -> Float[Tensor, "*models d"]:
        """``v_w(theta)``, without its graph."""
        return torch.cat(self.parts, dim=-1).detach()

    def transpose_product(self, cotangent: Float[Tensor, "*models d"]) -> Float[Tensor, "*models d"]:
        """``J(theta)^T c``. The graph stays, ready for the next product."""
        return torch.cat(self._differentiate((self.phi, self.psi), cotangent, retain_graph=True), dim=-1)

    def row_terms(self, cotangent: Float[Tensor, "*models d"]) -> Float[Tensor, "*models batch"]:
        """``d<c, v_w> / dw_i`` for every row i of the batch. The graph stays."""
        return self._differentiate((self.weights,), cotangent, retain_graph=True)[0]

    def both(
        self, cotangent: Float[Tensor, "*stops d"]
    ) -> tuple[Float[Tensor, "*stops d"], Float[Tensor, "*stops batch"]]:
        """``J^T c`` and the row terms in one pass, which frees the graph; several cotangents may share it."""
        of_phi, of_psi, rows = self._differentiate((self.phi, self.psi, self.weights), cotangent, retain_graph=False)
        return torch.cat([of_phi, of_psi], dim=-1), rows

    def _differentiate(self, inputs: tuple[Tensor, ...], cotangent: Tensor, retain_graph: bool) -> tuple[Tensor, ...]:
        pairs = [
            (part, c) for part, c in zip(self.parts, self.game.split(cotangent), strict=True) if part.requires_grad
        ]
        return torch.autograd.grad(
            [part for part, _ in pairs],
            inputs,
            [c for _, c in pairs],
            retain_graph=retain_graph,
            is_grads_batched=cotangent.ndim > self.phi.ndim,
            materialize_grads=True,
        )


def pull_back_step(
    game: Game,
    updates: Updates,
    damping: float,
    cotangent: Float[Tensor, "*stops buffers d"],
    state: Float[Tensor, "buffers d"],
    weights: Float[Tensor, " batch"],
    rows: Float[Tensor, "batch *instance"],
    latents: Float[Tensor, "n_z *latent"],
    time: Float[Tensor, ""],
) -> tuple[Tensor, ...]:
    """Carry the cotangent of the state after step ``time`` to the state before it.

    Damping replaces ``J`` by ``J + gamma I`` (TNNLS IV-C4). Several cotangents share the pass through the game.

    Returns:
        The new cotangent, ``(*stops, buffers, d)``, and ``d<cotangent, state'> / dw_i`` for each row of the batch,
        ``(*stops, batch)``.
    """
    graph = FieldGraph(game, state[0], weights, rows, latents)
    before, c = updates.pull_back(time, state, graph.value, cotangent)
    product, row_terms = graph.both(c)
    if damping:
        product = product + damping * c
    padded = torch.cat([product.unsqueeze(-2), torch.zeros_like(before[..., 1:, :])], dim=-2)
    return before + padded, row_terms
