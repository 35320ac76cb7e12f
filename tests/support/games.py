"""Small games, and the papers' formulas for them written out by hand, with dense matrices.

Nothing here calls the library's gradients: the players' forward passes, costs and metric are spelled out on flat
parameter vectors, so that the tests compare two independent computations.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import gan_influence as gi
from gan_influence import trees
from gan_influence.batch import Inputs

COSTS = {  # (real, fake, generator)
    "minimax": (lambda a: (1 + (-a).exp()).log(), lambda a: (1 + a.exp()).log(), lambda a: -(1 + a.exp()).log()),
    "non_saturating": (
        lambda a: (1 + (-a).exp()).log(),
        lambda a: (1 + a.exp()).log(),
        lambda a: (1 + (-a).exp()).log(),
    ),
    "wasserstein": (lambda a: -a, lambda a: a, lambda a: -a),
    "least_squares": (lambda a: (a - 1) * (a - 1), lambda a: a * a, lambda a: (a - 1) * (a - 1)),
    "hinge": (lambda a: (1 - a).clamp(min=0), lambda a: (1 + a).clamp(min=0), lambda a: -a),
    "softplus": (lambda a: (1 + (1 - a).exp()).log(), lambda a: (1 + (1 + a).exp()).log(), lambda a: -a),
}
BANDWIDTH = 0.8


@dataclass(frozen=True)
class Problem:
    """A game and its data, with both players once more as functions of a flat vector."""

    generator: nn.Module
    discriminator: nn.Module
    generate: Callable[[Tensor, Tensor], Tensor]
    discriminate: Callable[[Tensor, Tensor], Tensor]
    data: Tensor
    schedule: Callable[[int], tuple[Tensor | None, Tensor]]
    reference: Tensor
    fresh: Tensor
    loss: str = "minimax"
    l2: tuple[float, float] = (0.0, 0.0)
    rates: tuple[float, float] = (0.1, 0.1)

    def but(self, **changes) -> "Problem":
        return replace(self, **changes)

    @property
    def sizes(self) -> list[int]:
        return [sum(p.numel() for p in module.parameters()) for module in (self.generator, self.discriminator)]

    @property
    def eta(self) -> Tensor:
        return torch.cat(
            [torch.full((n,), lr, dtype=torch.float64) for n, lr in zip(self.sizes, self.rates, strict=True)]
        )

    @property
    def ones(self) -> Tensor:
        return torch.ones(len(self.data), dtype=torch.float64)

    def start(self) -> Tensor:
        parameters = [*self.generator.parameters(), *self.discriminator.parameters()]
        return torch.cat([p.detach().reshape(-1) for p in parameters])

    def game(self) -> gi.Game:
        return gi.Game(self.generator, self.discriminator, loss=self.loss, l2=self.l2)

    def inputs(self, weights: Tensor) -> Inputs:
        """What step 0 sees, of these weights; of a schedule of all rows."""
        return Inputs(self.data, self.schedule(0)[1], None, weights, torch.zeros((), dtype=torch.float64))

    def train(self, steps: int, **options) -> gi.Trace:
        optimizer = gi.SGD(self.rates[0]), gi.SGD(self.rates[1])
        given = {"optimizer": optimizer[0] if self.rates[0] == self.rates[1] else optimizer} | options
        return gi.train(self.game(), self.data, self.schedule, steps, **given)

    def metric(self) -> gi.metrics.AverageLogLikelihood:
        return gi.metrics.AverageLogLikelihood(self.reference, self.fresh, bandwidth=BANDWIDTH)


def normal(seed: int, *shape: int, mean: float = 0.0) -> Tensor:
    return mean + torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lqgan(n: int = 24, **changes) -> Problem:
    generator, discriminator = gi.models.lqgan(scale=0.7, shift=-0.3, quadratic=-0.2, linear=0.4)
    problem = Problem(
        generator,
        discriminator,
        generate=lambda phi, z: phi[0] * z + phi[1],
        discriminate=lambda psi, x: (psi[0] * x**2 + psi[1] * x)[:, 0],
        data=normal(1, n, 1, mean=1.0),
        schedule=gi.FullBatch(normal(2, 20, 1)),
        reference=normal(3, 15, 1, mean=1.0),
        fresh=normal(4, 18, 1),
    )
    return problem.but(**changes)


def mlp(n: int = 14, **changes) -> Problem:
    generator = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    discriminator = nn.Sequential(nn.Linear(2, 3), nn.Softplus(), nn.Linear(3, 1))
    for k, module in enumerate((generator, discriminator)):
        module.double()
        for j, parameter in enumerate(module.parameters()):
            parameter.data = 0.6 * normal(100 + 10 * k + j, *parameter.shape)

    def generate(phi: Tensor, z: Tensor) -> Tensor:
        first, b1, second, b2 = phi.split([6, 3, 6, 2])
        return torch.tanh(z @ first.view(3, 2).T + b1) @ second.view(2, 3).T + b2

    def discriminate(psi: Tensor, x: Tensor) -> Tensor:
        first, b1, second, b2 = psi.split([6, 3, 3, 1])
        return torch.log1p(torch.exp(x @ first.view(3, 2).T + b1)) @ second + b2

    problem = Problem(
        generator,
        discriminator,
        generate,
        discriminate,
        data=normal(1, n, 2, mean=0.5),
        schedule=gi.FullBatch(normal(2, 10, 2)),
        reference=normal(3, 9, 2, mean=0.5),
        fresh=normal(4, 11, 2),
    )
    return problem.but(**changes)


GAMES = {"lqgan": lqgan, "mlp": mlp}


class EpochBatches:
    """Every row once an epoch, in a fresh order; the last batch holds what is left. A pure function of t."""

    def __init__(self, size: int, batch_size: int, latent_shape: tuple[int, ...], seed: int):
        self.size, self.batch_size, self.latent_shape, self.seed = size, batch_size, latent_shape, seed

    def __call__(self, t: int) -> gi.Batch:
        epoch, k = divmod(t, math.ceil(self.size / self.batch_size))
        order = torch.randperm(self.size, generator=torch.Generator().manual_seed(1000 * self.seed + epoch))
        indices = order[k * self.batch_size : (k + 1) * self.batch_size]
        return gi.Batch(indices, normal(10**6 * (1 + self.seed) + t, len(indices), *self.latent_shape))


class Momentum:
    """``torch.optim.SGD(momentum=...)`` as an update of state rows: parameters and velocity."""

    buffers = 1

    def __init__(self, lr: float, momentum: float = 0.9):
        self.lr, self.momentum = lr, momentum

    def update(self, step: Tensor, state: Tensor, gradient: Tensor) -> Tensor:
        velocity = self.momentum * state[..., 1, :] + gradient
        return torch.stack([state[..., 0, :] - self.lr * velocity, velocity], dim=-2)


class Adaptive:
    """Nonlinear in the gradient, the buffer and the time: a running second moment and a decaying learning rate."""

    buffers = 1

    def __init__(self, lr: float):
        self.lr = lr

    def update(self, step: Tensor, state: Tensor, gradient: Tensor) -> Tensor:
        second = 0.7 * state[..., 1, :] + 0.3 * gradient**2
        moved = state[..., 0, :] - self.lr / (1 + 0.1 * step) * gradient / (second + 1e-2).sqrt()
        return torch.stack([moved, second], dim=-2)


def value_function(problem: Problem, theta: Tensor, weights: Tensor) -> Tensor:
    """V of TNNLS eq. 2 for the minimax loss, f(a) = log sigmoid(a), g(a) = f(-a), with R."""
    phi, psi = theta.split(problem.sizes)
    latents = problem.schedule(0)[1]
    real = problem.discriminate(psi, problem.data)
    fake = problem.discriminate(psi, problem.generate(phi, latents))
    first, second = problem.l2
    return (
        (weights * torch.sigmoid(real).log()).mean()
        + torch.sigmoid(-fake).log().mean()
        + (first * phi.square().sum() - second * psi.square().sum()) / 2
    )


def batch_of(problem: Problem, t: int, order: str = "simultaneous") -> gi.Batch:
    """Of step t; in turns the discriminator alone looks at rows, and an epoch counts its steps."""
    if order == "turns" and isinstance(problem.schedule, gi.Minibatches):
        return problem.schedule.at(t, (t + 1) // 2)
    return problem.schedule(t)


def costs(
    problem: Problem, phi: Tensor, psi: Tensor, weights: Tensor, t: int = 0, order: str = "simultaneous"
) -> tuple[Tensor, Tensor]:
    """``(L_G, L_D)`` of step t."""
    real, fake, generator = COSTS[problem.loss]
    indices, latents = batch_of(problem, t, order)[:2]
    chosen = slice(None) if indices is None else indices
    rows, w = problem.data[chosen], weights[chosen]
    logits = problem.discriminate(psi, problem.generate(phi, latents))
    cost_g = generator(logits).mean() + problem.l2[0] * (phi @ phi) / 2
    cost_d = (w * real(problem.discriminate(psi, rows))).sum() / len(rows) + fake(logits).mean()
    return cost_g, cost_d + problem.l2[1] * (psi @ psi) / 2


def field(problem: Problem, theta: Tensor, weights: Tensor, t: int = 0) -> Tensor:
    """``v_w(theta)`` of step t, differentiable in theta and the weights."""
    if not theta.requires_grad:
        theta = theta.clone().requires_grad_()
    phi, psi = theta.split(problem.sizes)
    cost_g, cost_d = costs(problem, phi, psi, weights, t)
    (v_phi,) = torch.autograd.grad(cost_g, phi, create_graph=True)
    (v_psi,) = torch.autograd.grad(cost_d, psi, create_graph=True)
    return torch.cat([v_phi, v_psi])


def jacobian(problem: Problem, theta: Tensor, weights: Tensor, t: int = 0) -> Tensor:
    """J = dv/dtheta, dense."""
    return torch.autograd.functional.jacobian(lambda at: field(problem, at, weights, t), theta.detach())


def row_jacobian(problem: Problem, theta: Tensor, weights: Tensor, t: int = 0) -> Tensor:
    """dv/dw, dense, ``(d, N)``."""
    return torch.autograd.functional.jacobian(lambda w: field(problem, theta.detach(), w, t), weights)


def removal_steps(problem: Problem, theta: Tensor, weights: Tensor, t: int = 0) -> Tensor:
    """Column j: ``dv_j = -(eta/|B|) grad_theta f(D(psi, x_j))`` with ``f = -real``, zero off the batch (eq. 9)."""
    indices = problem.schedule(t)[0]
    chosen = list(range(len(problem.data))) if indices is None else indices.tolist()
    real = COSTS[problem.loss][0]
    steps = torch.zeros(len(theta), len(problem.data), dtype=torch.float64)
    for j in chosen:
        at = theta.detach().clone().requires_grad_()
        f = -real(problem.discriminate(at[problem.sizes[0] :], problem.data[j : j + 1])).sum()
        steps[:, j] = -problem.eta / len(chosen) * weights[j] * torch.autograd.grad(f, at)[0]
    return steps


def average_log_likelihood(problem: Problem, theta: Tensor) -> Tensor:
    phi, _ = theta.split(problem.sizes)
    generated = problem.generate(phi, problem.fresh)
    squared = (problem.reference[:, None, :] - generated[None, :, :]).square().sum(-1)
    kernels = torch.exp(-squared / (2 * BANDWIDTH**2)) / (2 * math.pi * BANDWIDTH**2) ** (generated.shape[1] / 2)
    return kernels.mean(1).log().mean()


def metric_gradient(problem: Problem, theta: Tensor) -> Tensor:
    at = theta.detach().clone().requires_grad_()
    return torch.autograd.grad(average_log_likelihood(problem, at), at)[0]


def unrolled(problem: Problem, weights: Tensor, steps: int, optimizer=None) -> list[Tensor]:
    """``theta_0 ... theta_T``, each a differentiable function of the weights."""
    pair = optimizer if isinstance(optimizer, tuple) else (optimizer, optimizer)
    rows = 1 if optimizer is None else 2
    start = problem.start()
    state = torch.cat([start[None], torch.zeros(rows - 1, len(start), dtype=start.dtype)])
    thetas = [state[0]]
    for t in range(steps):
        v = field(problem, state[0], weights, t)
        if optimizer is None:
            state = state - problem.eta * v
        else:
            time = torch.tensor(float(t), dtype=torch.float64)
            columns = zip(pair, state.split(problem.sizes, -1), v.split(problem.sizes), strict=True)
            parts = []
            for one, part, g in columns:
                used = 1 + one.buffers
                parts.append(torch.cat([one.update(time, part[:used], g), part[used:]]))
            state = torch.cat(parts, dim=-1)
        thetas.append(state[0])
    return thetas


def unrolled_scores(problem: Problem, steps: int, optimizer=None) -> Tensor:
    """``-dE(theta_T(w))/dw`` by autograd through the whole run."""
    weights = problem.ones.requires_grad_()
    end = unrolled(problem, weights, steps, optimizer)[-1]
    return -torch.autograd.grad(average_log_likelihood(problem, end), weights)[0]


def dense_itd(problem: Problem, steps: int, damping: float = 0.0, last: int | None = None) -> Tensor:
    """TNNLS eq. 9 forwards with dense matrices: ``Delta <- Z Delta + dv``, then ``grad E . Delta``."""
    thetas = [theta.detach() for theta in unrolled(problem, problem.ones, steps)]
    delta = torch.zeros(len(thetas[0]), len(problem.data), dtype=torch.float64)
    for t in range(0 if last is None else steps - last, steps):
        delta = z_matrix(problem, thetas[t], damping, t=t) @ delta + removal_steps(problem, thetas[t], problem.ones, t)
    return metric_gradient(problem, thetas[-1]) @ delta


def dense_aid(problem: Problem, theta: Tensor, terms: int, damping: float = 0.0, t: int = 0) -> Tensor:
    """TNNLS eq. 14 and 16b: ``grad E . sum_{m=0}^{M-1} Z^m dv``."""
    z = z_matrix(problem, theta, damping, t=t)
    series = sum(torch.linalg.matrix_power(z, m) for m in range(terms))
    return metric_gradient(problem, theta) @ series @ removal_steps(problem, theta, problem.ones, t)


def dense_limit(problem: Problem, theta: Tensor, damping: float = 0.0, t: int = 0) -> Tensor:
    """TNNLS eq. 12: ``grad E . (I - Z)^{-1} dv``."""
    z = z_matrix(problem, theta, damping, t=t)
    steps = removal_steps(problem, theta, problem.ones, t)
    return metric_gradient(problem, theta) @ torch.linalg.solve(torch.eye(len(z), dtype=z.dtype) - z, steps)


def z_matrix(problem: Problem, theta: Tensor, damping: float = 0.0, t: int = 0) -> Tensor:
    """``Z = I - eta (J + gamma I)``, a learning rate per row."""
    eye = torch.eye(len(theta), dtype=torch.float64)
    return eye - problem.eta[:, None] * (jacobian(problem, theta, problem.ones, t) + damping * eye)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).detach().norm() / expected.detach().norm())


def same_bits(one: Any, other: Any) -> bool:
    """Of two tensors, or of two trees of them."""
    if not isinstance(one, Tensor):
        pairs = list(zip(trees.leaves(one), trees.leaves(other), strict=True))
        return bool(pairs) and all(same_bits(*pair) for pair in pairs)
    return one.dtype == other.dtype and one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()


Memory = dict[str, Tensor]
Move = Callable[
    [Tensor, Tensor, Memory, int], Tensor
]  # (theta, gradient, what it remembers, its own update k = 1, 2, ...)
Rate = float | Callable[[int], float]


def rate_at(lr: Rate, k: int) -> float:
    return lr(k) if callable(lr) else lr


def textbook_sgd(
    lr: Rate,
    momentum: float = 0.0,
    dampening: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> Move:
    """The algorithm box of ``torch.optim.SGD``."""

    def move(theta: Tensor, g: Tensor, memory: Memory, k: int) -> Tensor:
        g = g + weight_decay * theta
        if momentum:
            memory["b"] = g if k == 1 else momentum * memory["b"] + (1 - dampening) * g
            g = g + momentum * memory["b"] if nesterov else memory["b"]
        return theta - rate_at(lr, k) * g

    return move


def textbook_rmsprop(
    lr: Rate = 0.01,
    alpha: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    centered: bool = False,
    frozen: bool = False,
) -> Move:
    """The algorithm box of ``torch.optim.RMSprop``."""

    def move(theta: Tensor, g: Tensor, memory: Memory, k: int) -> Tensor:
        g = g + weight_decay * theta
        memory["v"] = v = alpha * memory.get("v", 0) + (1 - alpha) * g**2
        if centered:
            memory["mean"] = mean = alpha * memory.get("mean", 0) + (1 - alpha) * g
            v = v - mean**2
        root = v.detach().sqrt() if frozen else v.sqrt()
        memory["b"] = momentum * memory.get("b", 0) + g / (root + eps)
        return theta - rate_at(lr, k) * memory["b"]

    return move


def textbook_adam(
    lr: Rate = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    frozen: bool = False,
) -> Move:
    """Kingma and Ba 2015, Algorithm 1; ``decoupled``: Loshchilov and Hutter 2019, Algorithm 2, as torch scales it."""

    def move(theta: Tensor, g: Tensor, memory: Memory, k: int) -> Tensor:
        if decoupled:
            theta = theta - rate_at(lr, k) * weight_decay * theta
        else:
            g = g + weight_decay * theta
        memory["m"] = betas[0] * memory.get("m", 0) + (1 - betas[0]) * g
        memory["v"] = betas[1] * memory.get("v", 0) + (1 - betas[1]) * g**2
        corrected = memory["v"] / (1 - betas[1] ** k)
        root = corrected.detach().sqrt() if frozen else corrected.sqrt()
        return theta - rate_at(lr, k) * memory["m"] / (1 - betas[0] ** k) / (root + eps)

    return move


def textbook_run(
    problem: Problem,
    weights: Tensor,
    steps: int,
    moves: Move | tuple[Move, Move],
    order: str = "simultaneous",
    damping: float = 0.0,
    first_weighted: int = 0,
) -> list[tuple[Tensor, Tensor]]:
    """``[(phi_0, psi_0), ..., (phi_T, psi_T)]``, each a differentiable function of the weights.

    ``damping`` adds ``gamma I`` to the Jacobian of the field and nothing to its value. Up to step ``first_weighted``
    every row weighs one.
    """
    pair = moves if isinstance(moves, tuple) else (moves, moves)
    memories: tuple[Memory, Memory] = {}, {}
    taken = [0, 0]
    players = [part.clone().requires_grad_() for part in problem.start().split(problem.sizes)]
    run = [(players[0], players[1])]
    for t in range(steps):
        turns = {"simultaneous": [(0, 1)], "alternating": [(1,), (0,)], "turns": [(t % 2 == 0,)]}[order]
        for movers in turns:
            w = weights if t >= first_weighted else torch.ones_like(weights)
            at = [player.clone() for player in players]  # partial derivatives: psi may itself have come from phi
            both = costs(problem, *at, w, t, order)
            gradients = {k: torch.autograd.grad(both[k], at[k], create_graph=True)[0] for k in map(int, movers)}
            for k, gradient in gradients.items():
                taken[k] += 1
                damped = gradient + damping * (players[k] - players[k].detach())
                players[k] = pair[k](players[k], damped, memories[k], taken[k])
        run.append((players[0], players[1]))
    return run


def averaged(run: list[tuple[Tensor, Tensor]], decay: float | None) -> list[Tensor]:
    """``(average of the generator, discriminator)`` after each step; the generator itself without a decay."""
    average, seen = run[0][0], [torch.cat(run[0])]
    for phi, psi in run[1:]:
        average = phi if decay is None else decay * average + (1 - decay) * phi
        seen.append(torch.cat([average, psi]))
    return seen


def textbook_scores(
    problem: Problem,
    steps: int,
    moves: Move | tuple[Move, Move],
    order: str = "simultaneous",
    decay: float | None = None,
    last: int | None = None,
    damping: float = 0.0,
) -> Tensor:
    """``-dE/dw`` at the averaged generator, by autograd through the whole run; ``last``: of the last steps' weights."""
    weights = problem.ones.requires_grad_()
    first = 0 if last is None else steps - last
    run = textbook_run(problem, weights, steps, moves, order, damping, first_weighted=first)
    return -torch.autograd.grad(average_log_likelihood(problem, averaged(run, decay)[-1]), weights)[0]


OPTIMIZERS: dict[str, tuple] = {  # the library's, the textbook's
    "sgd": (gi.SGD(0.1), textbook_sgd(0.1)),
    "sgd-inverse-sqrt": (gi.SGD(gi.InverseSqrt(0.2)), textbook_sgd(lambda k: 0.2 / math.sqrt(k))),
    "momentum": (gi.SGD(0.05, momentum=0.9), textbook_sgd(0.05, momentum=0.9)),
    "momentum-dampened-decayed": (
        gi.SGD(0.1, momentum=0.8, dampening=0.3, weight_decay=0.1),
        textbook_sgd(0.1, momentum=0.8, dampening=0.3, weight_decay=0.1),
    ),
    "nesterov": (
        gi.SGD(0.05, momentum=0.9, weight_decay=0.1, nesterov=True),
        textbook_sgd(0.05, momentum=0.9, weight_decay=0.1, nesterov=True),
    ),
    "rmsprop": (gi.RMSProp(0.01, alpha=0.9), textbook_rmsprop(0.01, alpha=0.9)),
    "rmsprop-centered-momentum": (
        gi.RMSProp(0.01, alpha=0.9, eps=1e-3, weight_decay=0.1, momentum=0.5, centered=True),
        textbook_rmsprop(0.01, alpha=0.9, eps=1e-3, weight_decay=0.1, momentum=0.5, centered=True),
    ),
    "adam": (gi.Adam(0.02), textbook_adam(0.02)),
    "adam-decayed-inverse-sqrt": (
        gi.Adam(gi.InverseSqrt(0.05), betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1),
        textbook_adam(lambda k: 0.05 / math.sqrt(k), betas=(0.5, 0.9), eps=1e-3, weight_decay=0.1),
    ),
    "adamw": (gi.AdamW(0.02), textbook_adam(0.02, weight_decay=0.01, decoupled=True)),
    "adam-and-sgd": ((gi.Adam(0.02), gi.SGD(0.1)), (textbook_adam(0.02), textbook_sgd(0.1))),
    "momentum-and-rmsprop-centered": (
        (gi.SGD(0.05, momentum=0.9), gi.RMSProp(0.01, centered=True)),
        (textbook_sgd(0.05, momentum=0.9), textbook_rmsprop(0.01, centered=True)),
    ),
}
ORDERS = ("simultaneous", "alternating", "turns")


def minibatch_mlp(n: int = 14, batch_size: int = 5, **changes) -> Problem:
    """Three steps an epoch, the last of four rows; both players regularised, so that no gradient is zero by chance."""
    schedule = gi.Minibatches(n, batch_size, latent_shape=(2,), seed=3)
    return mlp(n, **({"schedule": schedule, "l2": (0.3, 0.2)} | changes))
