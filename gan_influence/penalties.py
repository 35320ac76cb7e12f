"""Penalties of slopes, which a cost adds to what a player pays: R1, R2, WGAN-GP and StyleGAN2's path length.

    >>> import gan_influence as gi
    >>> game = gi.Game(*gi.models.lqgan(seed=0), loss="non_saturating", penalties=[gi.penalties.R1(10.0, every=4)])

A slope is taken by ``torch.func.grad``, which torch can differentiate twice more, stack (``vmap``) and record. The sum
over rows that it differentiates has each row's own slope where no row's logit depends on another row.

A cost of one's own adds them by :func:`added`, in a game of the ``period`` that they need, and finds other slopes by
:func:`slopes`::

    def cost(players, batch):
        fake = players.generator(batch.latents)
        costs = gi.Costs(rows={"discriminator": ...}, rest={...})
        return gi.penalties.added(costs, [gi.penalties.R1(10.0, every=16)], players, batch, fake)

    gi.Game(players={...}, cost=cost, period=16)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gan_influence import trees
from gan_influence.checks import check, is_real, is_whole
from gan_influence.costs import Costs, mean
from gan_influence.players import logits
from gan_influence.trees import Tree

__all__ = ["R1", "R2", "GradientPenalty", "PathLength", "Penalty", "added", "checked", "slopes"]


class Penalty(Protocol):
    """What :func:`added` needs of a penalty.

    Attributes:
        player: who pays, ``"discriminator"`` or ``"generator"``.
        every: it is added where the step is a multiple of that, and then ``every`` times: a lazy penalty.
        masked: a row's term leaves with the row; else the terms' mean stays, whatever rows are removed.
    """

    @property
    def player(self) -> str: ...

    @property
    def every(self) -> int: ...

    @property
    def masked(self) -> bool: ...

    def terms(self, players: Any, batch: Any, generated: Tree = None) -> Float[Tensor, " rows"]:
        """What each row adds in a step that adds it, weight and ``every`` included.

        Args:
            players: as a cost sees them.
            batch: as a cost sees it.
            generated: ``players.generator(batch.latents)``, where the cost has it already.
        """


def _factor(penalty: Any) -> float:
    """``weight * every``: what a term is multiplied by in a step that adds it."""
    return penalty.weight * penalty.every


@dataclass(frozen=True)
class _OfDiscriminator:
    weight: float
    every: int = 1

    player = "discriminator"
    masked = False
    factor = property(_factor)

    def __post_init__(self) -> None:
        _check(self, self.weight, self.every)


@dataclass(frozen=True)
class R1(_OfDiscriminator):
    """``weight / 2 |grad_x D(x_i)|^2`` of each row x_i (Mescheder et al. 2018), with D the logit, before any loss.

    Args:
        weight: gamma.
        every: k, of a lazy one: added in steps 0, k, 2k, ..., k times (Karras et al. 2020).
        masked: True: a removed row takes its penalty along; False: the mean over the batch stays as it is, as in the
            published StyleGAN code.

    Raises:
        ValueError, TypeError: weight is no number > 0, ``every`` no whole number >= 1, ``masked`` neither.
    """

    masked: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.masked, bool):
            raise TypeError(f"R1's masked must be True or False, got {self.masked!r}")

    def terms(self, players: Any, batch: Any, generated: Tree = None) -> Float[Tensor, " rows"]:
        return 0.5 * self.factor * _square(_of_logits(players, batch.rows))


@dataclass(frozen=True)
class R2(_OfDiscriminator):
    """``weight / 2 |grad_x D(x)|^2`` of each generated ``x = G(z)`` (Mescheder et al. 2018); the discriminator pays it.

    Args:
        weight: gamma.
        every: as in :class:`R1`.

    Raises:
        ValueError: weight is no number > 0, ``every`` no whole number >= 1.
    """

    def terms(self, players: Any, batch: Any, generated: Tree = None) -> Float[Tensor, " rows"]:
        return 0.5 * self.factor * _square(_of_logits(players, _generated(players, batch, generated)))


@dataclass(frozen=True)
class GradientPenalty(_OfDiscriminator):
    """``weight (|grad D(x^_i)| - target)^2`` at ``x^_i = e_i x_i + (1 - e_i) G(z_i)`` (Gulrajani et al. 2017, WGAN-GP).

    The e_i, one uniform number a row, are ``batch.noise``, or its entry ``"interpolation"``:
    ``Minibatches(..., noise=lambda rng, n: rng.random(n))``. Parts of rows that are no floating-point numbers, such as
    labels, are the row's own.

    The norm is ``sqrt(max(|g|^2, eps^2))`` with eps the rounding of the data type: where D does not look at its input
    the derivatives of a root are infinite, and these are 0.

    Args:
        weight: lambda.
        every: as in :class:`R1`.
        target: the norm that is wanted, 1 for WGAN-GP, 0 for a penalty of the norm itself.

    Raises:
        ValueError: weight is no number > 0, ``every`` no whole number >= 1, target no number >= 0; in a step, without
            one number of noise a row, or with other numbers or shapes of generated rows than of rows.
    """

    weight: float = 10.0
    target: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(is_real(self.target) and self.target >= 0, "GradientPenalty's target", "a number >= 0", self.target)

    def terms(self, players: Any, batch: Any, generated: Tree = None) -> Float[Tensor, " rows"]:
        between = _interpolated(batch, _generated(players, batch, generated))
        return self.factor * (_norm(_of_logits(players, between)) - self.target).square()


class PathLength(nn.Module):
    """``weight (l_i - a)^2`` with ``l_i = |J_i^T y_i|``, J_i the Jacobian of G at z_i (StyleGAN2: Karras et al. 2020).

    The generator pays it. y, of the shape of the generated rows, is ``batch.noise``, or its entry ``"path"``: StyleGAN2
    has N(0, 1) over the root of the number of pixels. ``a <- a + decay (mean l - a)`` is a running mean with this
    step's lengths in it; as in the published code, its derivative passes through these and not through earlier ones.
    It is a buffer, which a run replays, and so the penalty is itself a player, ``path_length``::

        penalty = gi.penalties.PathLength(2.0)
        gi.Game(players={"generator": G, "discriminator": D, "path_length": penalty}, cost=cost)

    with a cost that adds it by :func:`added`. The norm is that of :class:`GradientPenalty`.

    Args:
        weight: of the penalty.
        decay: of the running mean, 0 < decay <= 1.
        every: as in :class:`R1`; then the mean moves in the steps that add it.

    Raises:
        ValueError: weight is no number > 0, decay is out of range, ``every`` no whole number >= 1; in a step, without
            noise of the shape of the generated rows.
    """

    mean: Float[Tensor, ""]
    player = "generator"
    masked = False
    factor = property(_factor)

    def __init__(self, weight: float, decay: float = 0.01, every: int = 1):
        super().__init__()
        _check(self, weight, every)
        if not is_real(decay) or not 0 < decay <= 1:
            raise ValueError(f"PathLength's decay must lie in 0 < decay <= 1, got {decay!r}")
        self.weight, self.decay, self.every = weight, decay, every
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))

    def forward(self, lengths: Float[Tensor, " rows"]) -> Float[Tensor, ""]:
        """The running mean with these lengths in it; the buffer keeps it."""
        moved = self.mean + self.decay * (lengths.mean() - self.mean)
        self.mean.copy_(moved.detach())
        return moved.to(lengths.dtype)

    def terms(self, players: Any, batch: Any, generated: Tree = None) -> Float[Tensor, " latents"]:
        if not hasattr(players, "path_length"):
            raise ValueError(
                "PathLength keeps a running mean, and so it is a player: Game(players={..., 'path_length': penalty}, "
                "cost=...)"
            )
        y = _noise(batch, "path", "PathLength needs noise of the shape of the generated rows")

        def projected(latents: Tree) -> Float[Tensor, ""]:
            rows = players.generator(latents)
            if rows.shape != y.shape:
                raise ValueError(
                    f"PathLength needs noise of the shape of the generated rows, {tuple(rows.shape)}, got "
                    f"{tuple(y.shape)}"
                )
            return (rows * y.to(rows.dtype)).sum()

        lengths = _norm(slopes(projected, players, batch.latents))
        return self.factor * (lengths - players.path_length(lengths)).square()


def checked(penalties: Sequence[Any]) -> tuple[Penalty, ...]:
    """The penalties of a GAN of two players.

    Raises:
        TypeError: one is no penalty.
        ValueError: one is of another player, or a player itself.
    """
    for k, penalty in enumerate(penalties):
        if isinstance(penalty, type) or not callable(getattr(penalty, "terms", None)):
            raise TypeError(
                f"penalties[{k}] is no penalty: give gi.penalties.R1(10.0), or an object with player, every, masked "
                f"and terms(players, batch, generated), got {penalty!r}"
            )
        if isinstance(penalty, PathLength):
            raise ValueError(
                f"penalties[{k}] is a PathLength, whose running mean makes it a player: "
                "Game(players={..., 'path_length': penalty}, cost=...)"
            )
        if penalty.player not in ("discriminator", "generator"):
            raise ValueError(
                f"penalties[{k}] is of the player {penalty.player!r}, but the players are generator and discriminator"
            )
        _check_every(penalty, penalty.every)
    return tuple(penalties)


def added(costs: Costs, penalties: Sequence[Penalty], players: Any, batch: Any, generated: Tree = None) -> Costs:
    """The costs and, of each penalty whose player moves and whose turn it is, its terms, or their mean in the rest.

    Args:
        costs: without them; they stay as they are.
        penalties: of any players.
        players: as a cost sees them.
        batch: as a cost sees it.
        generated: ``players.generator(batch.latents)``, where the cost has it already.

    Raises:
        ValueError: the game's ``period`` is no multiple of a penalty's ``every``; what a penalty raises.
    """
    rows, rest = dict(costs.rows), dict(costs.rest)
    for penalty in penalties:
        _check_period(penalty, players)
        if penalty.player not in players.moving or batch.turn % penalty.every:
            continue
        terms = penalty.terms(players, batch, generated)
        into, term = (rows, terms) if penalty.masked else (rest, mean(terms))
        into[penalty.player] = into[penalty.player] + term if penalty.player in into else term
    return Costs(rows, rest)


def slopes(function: Callable[[Tree], Float[Tensor, ""]], players: Any, at: Tree) -> list[Tensor]:
    """The gradient of a scalar, in each floating-point leaf of a tree.

    ``torch.func.grad``, but the function may call players whose buffers change, as spectral_norm's do: what a call
    writes within a transform of ``torch.func`` must leave it as a result.

    Args:
        function: of a tree like ``at``; it calls ``players``.
        players: as a cost sees them.
        at: where the slope is taken.

    Raises:
        TypeError: the tree has no floating-point leaf.
    """
    leaves: list[Tensor] = []
    form = trees.form(at, leaves)
    moving = [k for k, leaf in enumerate(leaves) if leaf.is_floating_point()]
    if not moving:
        raise TypeError("a slope needs floating-point rows, but these hold none: convert them with .float()")
    held = getattr(players, "held", {})

    def called(parts: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        own = dict(enumerate(leaves)) | dict(zip(moving, parts, strict=True))
        before = dict(held)
        held.update({name: value.clone() for name, value in before.items()})
        try:
            value = function(trees.build(form, iter(own.values())))
            return value, dict(held)
        finally:
            held.update(before)

    found, after = torch.func.grad(called, has_aux=True)(tuple(leaves[k] for k in moving))
    held.update(after)
    return list(found)


def _of_logits(players: Any, rows: Tree) -> list[Float[Tensor, "rows *instance"]]:
    n = trees.length(rows)
    return slopes(lambda rows: logits(players.discriminator(rows), n).sum(), players, rows)


def _square(slopes: list[Float[Tensor, "rows *instance"]]) -> Float[Tensor, " rows"]:
    """``|g_i|^2`` of each row, over all leaves and all their dimensions but the first."""
    squares = [slope.reshape(len(slope), -1).square().sum(1) for slope in slopes]
    return torch.stack(squares).sum(0) if len(squares) > 1 else squares[0]


def _norm(slopes: list[Float[Tensor, "rows *instance"]]) -> Float[Tensor, " rows"]:
    """``|g_i|`` of each row, but at least the rounding of 1: below that its derivatives are 0."""
    square = _square(slopes)
    return square.clamp(min=torch.finfo(square.dtype).eps ** 2).sqrt()


def _generated(players: Any, batch: Any, generated: Tree) -> Tree:
    return players.generator(batch.latents) if generated is None else generated


def _interpolated(batch: Any, generated: Tree) -> Tree:
    rows, n = batch.rows, trees.length(batch.rows)
    needed = f"GradientPenalty needs one number a row, {n} in all"
    e = _noise(batch, "interpolation", needed)
    if e.ndim == 0 or len(e) != n or e.numel() != n:
        raise ValueError(f"{needed}, got noise of shape {tuple(e.shape)}: noise=lambda rng, n: rng.random(n)")
    if trees.shapes(rows) != trees.shapes(generated):
        raise ValueError(
            "GradientPenalty lies between each row and a generated one, as many and of one form, but the rows have "
            f"shape {_shown(rows)}, the generated ones {_shown(generated)}: a batch needs as many latents as rows"
        )

    def between(real: Tensor, fake: Tensor) -> Tensor:
        if not real.is_floating_point():
            return real
        own = e.reshape(n, *[1] * (real.ndim - 1)).to(real.dtype)
        return own * real + (1 - own) * fake

    return trees.mapped(between, rows, generated)


def _shown(tree: Tree) -> str:
    return " and ".join(str(tuple(leaf.shape)) for leaf in trees.leaves(tree))


def _noise(batch: Any, name: str, needed: str) -> Tensor:
    """The batch's noise, or its entry of that name."""
    noise = batch.noise.get(name) if isinstance(batch.noise, dict) else batch.noise
    if isinstance(noise, Tensor) and noise.is_floating_point():
        return noise
    if noise is None and isinstance(batch.noise, dict):
        got = f"noise with the entries {', '.join(map(repr, batch.noise))}" if batch.noise else "no noise"
    else:
        got = "no noise" if noise is None else getattr(noise, "dtype", type(noise).__name__)
    raise ValueError(
        f"{needed}, as batch.noise or its entry {name!r}, got {got}: the schedule draws it, "
        f'Minibatches(..., noise=lambda rng, n: {{"{name}": ...}}) or FullBatch(latents, noise=...)'
    )


def _check(penalty: Any, weight: Any, every: Any) -> None:
    check(is_real(weight) and weight > 0, f"{type(penalty).__name__}'s weight", "a finite number > 0", weight)
    _check_every(penalty, every)


def _check_every(penalty: Any, every: Any) -> None:
    name = f"{type(penalty).__name__}'s every"
    check(is_whole(every) and every >= 1, name, "a whole number of steps >= 1", every)


def _check_period(penalty: Penalty, players: Any) -> None:
    """A cost sees the step modulo its game's period: of another one it would find the wrong turns."""
    period = getattr(getattr(players, "game", None), "period", penalty.every)
    if period % penalty.every:
        raise ValueError(
            f"{type(penalty).__name__} is added every {penalty.every} steps, but the game's period is {period}: give "
            f"Game(players=, cost=, period={penalty.every}), or a multiple of it"
        )
