"""An adjoint step the way the published code takes it, as the baseline of ours.

TNNLS's StyleGAN code applies autograd twice to plain torch modules, one player after the other, each with a forward
pass of its own::

    d/dtheta <grad_phi L_G, c_phi>        and        d/dtheta <grad_psi L_D, c_psi>

Their sum is ``J^T c``. Per-row terms come from a vector of weights here as in ours; a pass for every row would take
many times as long.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import vector_to_parameters

import gan_influence as gi
from gan_influence.adjoint import FieldGraph
from gan_influence.batch import Inputs
from gan_influence.devices import repeatable
from gan_influence.metrics.metric import metric_gradients

__all__ = ["PublishedApproach", "with_torch_layers"]

TOLERANCE = 1e-3  # of float32, where two channels of a single pixel are normalised


def with_torch_layers(player: nn.Module) -> nn.Sequential:
    """The same network of ``nn.Conv2d``, ``nn.ConvTranspose2d`` and ``nn.GroupNorm(1, channels)``."""
    return nn.Sequential(*map(_of_torch, player.children()))


def _of_torch(layer: nn.Module) -> nn.Module:
    if isinstance(layer, nn.GroupNorm):
        plain: nn.Module = nn.GroupNorm(1, layer.num_channels, layer.eps)
    elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        kind: Any = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.ConvTranspose2d
        plain = kind(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride)
    else:
        return nn.Sigmoid() if isinstance(layer, nn.Sigmoid) else copy.deepcopy(layer)
    plain.load_state_dict(layer.state_dict())
    return plain.to(next(layer.parameters()))


class PublishedApproach:
    """The sweep over a run of plain gradient descent on sequential players, and one step of it.

    Args:
        trace: the run, of :class:`gan_influence.SGD` without momentum.
        lr: its learning rate.
    """

    def __init__(self, trace: gi.Trace, lr: float):
        self._trace, self._lr = trace, lr
        self.generator, self.discriminator = (
            with_torch_layers(player.module) for player in trace.game.players.values()
        )

    def scores(self, metric: gi.metrics.Metric) -> Float[Tensor, " N"]:
        """``gi.itd(trace, metric)``: ``u <- u + J^T c`` with ``c = -eta u``."""
        trace = self._trace
        u = metric_gradients(metric, trace.game, trace.theta()[None])[0]
        scores = torch.zeros_like(trace.weights)
        for t in reversed(range(trace.first, trace.steps)):
            inputs = trace.inputs(t)
            with repeatable(u.device):
                product, of_rows = self.adjoint_step(trace.theta(t), -self._lr * u, inputs)
            inputs.add_to_rows(scores, -inputs.weights * of_rows)
            u = u + product
        return scores

    def adjoint_step(
        self, theta: Float[Tensor, " d"], c: Float[Tensor, " d"], inputs: Inputs
    ) -> tuple[Float[Tensor, " d"], Float[Tensor, " batch"]]:
        """``J(theta)^T c`` and the batch's per-row terms."""
        game, loss = self._trace.game, self._trace.game.loss
        phi, psi = list(self.generator.parameters()), list(self.discriminator.parameters())
        vector_to_parameters(theta, [*phi, *psi])
        c_phi, c_psi = game.split(c)
        weights, latents, rows = inputs.weights.detach().requires_grad_(), inputs.latents, inputs.rows

        generated = self.generator(latents)
        cost = loss.generator(self.discriminator(generated)[:, 0]).mean() + _regulariser(game.l2["generator"], phi)
        slope = torch.autograd.grad(cost, phi, create_graph=True)
        of_generator = torch.autograd.grad(_inner(slope, c_phi), [*phi, *psi], materialize_grads=True)

        real, fake = self.discriminator(rows)[:, 0], self.discriminator(self.generator(latents))[:, 0]
        cost = (weights * loss.real(real)).mean() + loss.fake(fake).mean() + _regulariser(game.l2["discriminator"], psi)
        slope = torch.autograd.grad(cost, psi, create_graph=True)
        wanted = [*phi, *psi, weights]
        *of_discriminator, of_rows = torch.autograd.grad(_inner(slope, c_psi), wanted, materialize_grads=True)
        return _flat(of_generator) + _flat(of_discriminator), of_rows

    def check(self) -> None:
        """Do both approaches compute the same adjoint step, at a random cotangent?

        Raises:
            RuntimeError: they differ by more than rounding in float32.
        """
        trace = self._trace
        theta = trace.theta(trace.first)
        inputs = trace.inputs(trace.first)
        c = torch.randn(theta.shape, generator=torch.Generator().manual_seed(0), dtype=theta.dtype).to(theta.device)
        with repeatable(theta.device):
            product, of_rows = self.adjoint_step(theta, c, inputs)
            our_product, our_rows = FieldGraph(trace.game, theta, inputs).both(c)
        for name, theirs, ours in (
            ("J^T c", product, our_product),
            ("per-row terms", of_rows, our_rows),
        ):
            error = float((theirs - ours).abs().max() / ours.abs().max())
            if not error < TOLERANCE:
                raise RuntimeError(f"the published approach and ours differ in {name} by {error:.1e} of the largest")


def _regulariser(rate: float, parameters: list[nn.Parameter]) -> Tensor:
    return 0.5 * rate * _flat(parameters).square().sum()


def _inner(parts: tuple[Tensor, ...], c: Tensor) -> Tensor:
    return (_flat(parts) * c).sum()


def _flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])
