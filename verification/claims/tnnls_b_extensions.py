"""TNNLS Appendix B."""

from __future__ import annotations

import numpy as np
import torch

import gan_influence as gi
from verification import games
from verification.judge import at_most, correction, relative, removal_derivative
from verification.ledger import Outcome, claim
from verification.lqgan import LQGAN

NOT_YET = "needs an optimiser or averaging that gan_influence does not have yet"


class Reshuffled:
    """Minibatches as a pure function of (seed, t): rows reshuffled every epoch, fresh latents every step."""

    def __init__(self, rows: int, batch: int, seed: int):
        self.rows, self.batch, self.seed = rows, batch, seed

    def __call__(self, t: int) -> gi.Batch:
        per_epoch = -(-self.rows // self.batch)
        order = torch.randperm(self.rows, generator=_generator(self.seed, t // per_epoch, 0))
        indices = order.split(self.batch)[t % per_epoch]
        latents = torch.randn(len(indices), 1, generator=_generator(self.seed, t, 1), dtype=torch.float64)
        return gi.Batch(indices, latents)


@claim(
    "minibatch",
    "TNNLS eq. 40-47",
    "With minibatches each step's Delta v is that of the batch, and zero for rows outside it.",
    "identity",
    r"\widehat{\Delta\theta_{-j}} = \sum_{t=0}^{T-1}\left(\prod_{s=t+1}^{T-1}Z(\theta^{(s)};\mathcal{X}_s)\right)"
    r"\Delta v_{-j}(\theta^{(t)};\mathcal{X}_t)",
)
def minibatch(preset: str) -> Outcome:
    """Eq. 47 multiplied out with each step's dense game (batches of 8 of 30 rows, the last of an epoch partial),
    against the core's sweep and against the differenced runs."""
    schedule, steps, lr = Reshuffled(30, 8, 3), 22, 0.05
    data = gi.datasets.normal_1d(30, seed=0)
    game = gi.Game(*gi.models.lqgan(seed=1))

    def train(weights: torch.Tensor) -> gi.Trace:
        return gi.train(game, data, schedule, steps, gi.SGD(lr), weights=weights)

    ones = torch.ones(30, dtype=torch.float64)
    trace = train(ones)
    total = np.zeros((30, 4))
    for t in range(steps):
        inputs = trace.inputs(t)
        twin = LQGAN(inputs.rows.numpy().ravel(), inputs.latents.numpy().ravel(), eta=lr)
        theta = trace.theta(t).numpy()
        total = total @ twin.step_matrix(theta).T
        assert inputs.indices is not None
        total[inputs.indices.numpy()] += twin.row_jumps(theta)
    swept = np.stack([gi.itd(trace, games.ParameterMetric(e)).numpy() for e in torch.eye(4).double()], axis=1)
    errors = []
    for j in (0, 11, 29):

        def end(weight: float, j: int = j) -> np.ndarray:
            weights = ones.clone()
            weights[j] = weight
            return train(weights).theta().numpy()

        errors.append(relative(removal_derivative(end, 0.2), swept[j]))
    numbers = {"eq. 47 against the sweep": relative(swept, total), "against differenced runs": max(errors)}
    return at_most(max(numbers["eq. 47 against the sweep"], 1e-3 * numbers["against differenced runs"]), 1e-11, numbers)


@claim(
    "minibatch-loss",
    "TNNLS eq. 40, 43",
    "The minibatch loss is f + g of the batch (eq. 40), and removing row j subtracts epsilon/|X_t| f (eq. 43).",
    "identity",
    r"V_{-j}(\varphi,\psi;\mathcal{X}_t) = V(\varphi,\psi;\mathcal{X}_t) - \delta_{x_j\in\mathcal{X}_t}"
    r"\frac{\epsilon}{|\mathcal{X}_t|}f(D(\psi,x_j))",
)
def minibatch_loss(preset: str) -> Outcome:
    """Eq. 40 has lost the regulariser R of eq. 2: with lambda > 0 its step is not the one of the same game with the
    whole data as its batch. In eq. 43 epsilon is undefined; only epsilon = 1 makes it eq. 6 for that batch."""
    toy = games.lqgan(rows=20, steps=1, l2=(0.3, 0.3))
    theta, lr = toy.thetas[0], toy.lr
    without_r = LQGAN(toy.twin.rows, toy.twin.latents, eta=lr).train(theta, 1)[-1]
    missing = relative(without_r - theta, toy.thetas[1] - theta)
    amended = relative(toy.twin.train(theta, 1)[-1] - theta, toy.thetas[1] - theta)
    removed = toy.twin.train(theta, 1, toy.twin.without([4]))[-1, 0]
    halved = np.ones(20)
    halved[4] = 0.5
    by_half = toy.twin.train(theta, 1, halved)[-1]
    epsilon = relative(by_half - toy.thetas[1], removed - toy.thetas[1])
    return correction(
        max(missing, epsilon),
        amended,
        1e-12,
        printed=f"without R the step is off by {missing:.2f} of its norm; for epsilon = 1/2 removal by {epsilon:.2f}",
        amended=f"V(X_t) = f + g + R and epsilon = 1: equal to eq. 2 and 6 to {amended:.0e}",
    )


@claim(
    "averaged-generator",
    "TNNLS Appendix B-C",
    "The averaged generator's influence follows the printed recursion with B = diag(I, beta I).",
    "identity",
    r"\overline{u}^{(t-1)} = Z(\theta^{(t)})\,\overline{u}^{(t)} + (I-B)B^{(T-t)}\nabla\overline{E}",
)
def averaged_generator(preset: str) -> Outcome:
    """Waits for the moving-average generator in training."""
    return Outcome("not run", "", NOT_YET)


@claim(
    "rmsprop-frozen-second-moment",
    "TNNLS Appendix B-B",
    "Under RMSProp, holding the second moment constant still yields sufficiently accurate influence.",
    "identity",
    r"\partial_\epsilon q_t^{(t)} = 0",
)
def rmsprop_frozen_second_moment(preset: str) -> Outcome:
    """Waits for RMSProp."""
    return Outcome("not run", "", NOT_YET)


def _generator(*key: int) -> torch.Generator:
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
