"""StyleGAN's fine-tuning as the authors' code does it (TNNLS VI-A3, VI-C): adapters, the cost, a run, and shortcuts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

import gan_influence as gi
from gan_influence import trees
from gan_influence.adjoint import FieldGraph, row_terms
from gan_influence.batch import Inputs
from gan_influence.checks import check
from gan_influence.game import Game
from gan_influence.itd import gradients_of
from gan_influence.metrics.metric import Measurable, as_metrics
from gan_influence.nn.equalised import EqualisedConvolution
from gan_influence.players import logits
from gan_influence.replay.recorded import PullBack, Recorded, RecordedLinearisation
from gan_influence.stacking import stacks
from gan_influence.state import Held, State
from gan_influence.trees import Tree
from gan_influence.updates import Phase, Updates

__all__ = [
    "BATCH",
    "DECAY",
    "OPTIMIZERS",
    "StyleGANCost",
    "adapted",
    "as_if",
    "evaluation_latents",
    "fine_tuned",
    "first_order",
    "game_of",
    "published_aid",
    "read_run",
    "shortcut",
]

BATCH, DECAY, MIXING, PENALTY, RATE = 8, 0.999, 0.9, 10.0, 2e-3
OPTIMIZERS: dict[str, gi.Optimizer] = {
    "code": gi.Adam(RATE, betas=(0.0, 0.99), eps=1e-8),
    "paper": gi.RMSProp(RATE),
}
DENOMINATORS = ("batch", "kept")
PENALTIES = ("mean", "masked", "none")
MOMENTS = ("exact", "constant", "code")
USUAL: dict[str, Any] = {"update": "alternating", "ema_decay": {"generator": DECAY}, "memory": "checkpoint"}
_NEARLY_ZERO = 1e-6  # a scale so small that what a step of the sweep adds to a cotangent is a first order


@dataclass(frozen=True)
class StyleGANCost:
    """What both players pay: the discriminator ``L_D`` with R1 at every step, the generator ``L_G``::

        L_D = (1/n) sum_i w_i softplus(-D(x_i)) + mean_z softplus(D(G(z))) + (5/|B|) sum_i |grad_x D(x_i)|^2
        L_G = mean_z' softplus(-D(G(z')))

    With ``"alternating"`` turns the generator sees the discriminator moved. Its latents z' are ``batch.noise``.

    Args:
        denominator: n: ``"batch"``, |B|, as in the paper (eq. 6) and in the code's influence; ``"kept"``, the sum of
            the weights, as in the code's retraining. Of a batch without weights the term is left out: there the code
            divides 0 by 0.
        penalty: ``"mean"``: of all rows, whatever their weights, as in the code's retraining; ``"masked"``: a row's
            leaves with the row, over the same denominator n; ``"none"``: as in the code's influence.
        weight: twice the 5.
        companions: real rows are judged in groups with the batch's generated ones, so that they do not interact: for a
            discriminator of StyleGAN2 with ``stddev="group"``.

    With weights of 1 denominators are the same, and so are all runs whose penalties are. What differs is how a run
    changes with the weights. :func:`gan_influence.aid` takes the denominators for constants.
    """

    denominator: str = "kept"
    penalty: str = "mean"
    weight: float = PENALTY
    companions: bool = False

    def __post_init__(self) -> None:
        check(self.denominator in DENOMINATORS, "denominator", " or ".join(DENOMINATORS), self.denominator)
        check(self.penalty in PENALTIES, "penalty", " or ".join(PENALTIES), self.penalty)

    def __call__(self, players: Any, batch: Inputs) -> gi.Costs:
        rows, rest = {}, {}
        if "discriminator" in players.moving:
            batch = batch._replace(rows=gi.datasets.as_images(batch.rows, batch.weights.dtype))
            judging = _Beside(players, players.generator(batch.latents)) if self.companions else players
            real = softplus(-_discriminated(judging, batch.rows))
            made = judging.companions if self.companions else players.generator(batch.latents)
            rest["discriminator"] = softplus(_discriminated(players, made)).mean()
            if self.penalty != "none":
                slopes = gi.penalties.R1(self.weight).terms(judging, batch)
                if self.penalty == "masked":
                    real = real + slopes
                else:
                    rest["discriminator"] = rest["discriminator"] + slopes.mean()
            rows["discriminator"] = real * self._share(batch.weights)
        if "generator" in players.moving:
            rest["generator"] = softplus(-_discriminated(players, players.generator(batch.noise))).mean()
        return gi.Costs(rows, rest)

    def _share(self, weights: Float[Tensor, " batch"]) -> Float[Tensor, ""] | float:
        """What turns a sum over |B| into one over n."""
        if self.denominator == "batch":
            return 1.0
        kept = weights.sum()
        return torch.where(kept > 0, len(weights) / torch.where(kept > 0, kept, 1.0), 0.0)


class _Beside:
    """The discriminator as real rows see it: beside generated ones."""

    def __init__(self, players: Any, companions: Tensor):
        self._players, self.companions, self.held = players, companions, players.held

    def discriminator(self, rows: Tensor) -> Tensor:
        return self._players.discriminator(rows, self.companions)


def _discriminated(players: Any, rows: Tensor) -> Float[Tensor, " rows"]:
    return logits(players.discriminator(rows), len(rows))


def adapted(generator: nn.Module, discriminator: nn.Module, rank: int, seed: int = 0) -> tuple[nn.Module, nn.Module]:
    """Both players with adapters where the authors' code has them, everything else frozen.

    These are all convolutions but those fused with a change of size, what AdaIN or modulation takes of the style, and
    the discriminator's last layer. Its ranks exceed those of layers with one or three outputs.
    """

    def is_of_generator(name: str, layer: nn.Module) -> bool:
        return isinstance(layer, EqualisedConvolution) or name.endswith((".style", ".modulation"))

    return (
        gi.lora(generator, rank, where=is_of_generator, seed=seed, overcomplete=True),
        gi.lora(discriminator, rank, where=(EqualisedConvolution, "linear"), seed=seed + 1, overcomplete=True),
    )


def game_of(generator: nn.Module, discriminator: nn.Module, cost: StyleGANCost | None = None) -> gi.Game:
    """Their game: the discriminator moves first.

    Raises:
        ValueError: the discriminator mixes real rows, for it looks at groups and the cost gives no companions; or the
            cost gives some, and it does not look at groups.
    """
    cost, groups = cost or StyleGANCost(), getattr(discriminator, "stddev", "constant") == "group"
    if groups and not cost.companions:
        raise ValueError(
            "the discriminator looks at the deviation within groups (stddev='group'), in which real rows would mix and "
            "none have a term of its own: give StyleGANCost(companions=True), or take stddev='constant'"
        )
    if cost.companions and not groups:
        raise ValueError("StyleGANCost(companions=True) is for a discriminator of StyleGAN2 with stddev='group'")
    # A row alone is no test of companions: it would be judged beside others than in its batch.
    players = {"discriminator": discriminator, "generator": generator}
    return gi.Game(players=players, cost=cost, rows_interact=cost.companions)


def fine_tuned(
    game: gi.Game, data: Tree, steps: int, optimizer: gi.Optimizer = OPTIMIZERS["code"], seed: int = 0, **settings: Any
) -> gi.Trace:
    """The run: batches of 8, each player with mixed latents and noise of its own, the generator averaged.

    Args:
        game: of :func:`game_of`.
        data: images, uint8 or in [-1, 1].
        steps: how many.
        optimizer: of both players.
        seed: of the batches.
        settings: of :func:`gan_influence.train`, in place of these.
    """
    return gi.train(game, data, _schedule(game, data, seed), steps, optimizer, **{**USUAL, **settings})


def read_run(path: str, game: gi.Game, data: Tree, optimizer: gi.Optimizer, seed: int, **settings: Any) -> gi.Trace:
    """A run of :func:`fine_tuned` with these settings that was saved there."""
    usual = {name: USUAL[name] for name in ("update", "ema_decay")}
    return gi.load_trace(path, game, data, _schedule(game, data, seed), optimizer, **{**usual, **settings})


def _schedule(game: gi.Game, data: Tree, seed: int) -> gi.Minibatches:
    draw = gi.models.style_latents(game.players["generator"].module, MIXING)
    return gi.Minibatches(len(data), min(BATCH, len(data)), latents=draw, noise=draw, seed=seed)


def evaluation_latents(generator: nn.Module, n: int, seed: int) -> Tree:
    """Latents and noise for a metric, one latent a row: nothing is mixed."""
    return gi.models.style_latents(generator, 0.0)(np.random.default_rng(seed), n)


def shortcut(
    trace: gi.Trace,
    metric: Measurable | Sequence[Measurable],
    cost: StyleGANCost,
    *,
    scale: float = 1.0,
    moments: str = "code",
    last: int | None = None,
) -> Float[Tensor, "*metrics N"]:
    """ITD as the authors' code computes it: of another cost, with Jacobians that are too small.

    At each state of the run, backwards, with f the step that the players would take there if they paid ``cost``::

        score_i -= w_i u . df/dw_i          u <- u + s (df/dtheta)^T u

    The code multiplies the scores by s besides, which changes no order and is left out. With ``s = 1``, the run's own
    cost and exact moments this is :func:`gan_influence.itd`.

    Args:
        trace: the run, which followed its own cost.
        metric: what is measured, or several.
        cost: what is differentiated: ``StyleGANCost("batch", "none")`` in the code.
        scale: s: .01 over one epoch, .001 over all of them.
        moments: what optimisers remember is, ``"exact"``, differentiated; ``"constant"`` up to the step (TNNLS Appendix
            B-B); or, ``"code"``, besides that of the generator is what it is at the end, at every step.
        last: trace back that many final steps only.
    """
    check(moments in MOMENTS, "moments", " or ".join(MOMENTS), moments)
    updates, end, metrics = trace.updates, trace.state().moving, as_metrics(metric)
    gradients = gradients_of(metrics, trace, [trace.steps])[:, 0]
    cotangent = gradients.new_zeros(len(gradients), *end.shape)
    cotangent[:, updates.seen] = gradients
    scores = torch.zeros(len(gradients), trace.size, dtype=torch.float64, device=gradients.device)
    own: int | slice = 0 if len(gradients) == 1 else slice(None)  # a stack of one costs more than none
    if len(gradients) > 1:
        stacks(trace)
    pays = as_if(trace, cost).game
    linearised = RecordedLinearisation(partial(_linearise, trace.game, pays, updates, updates.phases(0), scale))
    for begin, stop in trace.segments(trace.window(last), trace.steps):
        for t in reversed(range(begin, stop)):
            state, inputs = trace.state(t), trace.inputs(t)
            seen = _with_moments(trace, state.moving, end) if moments == "code" else state.moving
            pull_back = linearised.pull_back(state, seen, inputs.in_step, cotangent_shape=cotangent[own].shape)
            cotangent[own], rows = pull_back(cotangent[own])
            inputs.add_to_rows(scores[own], -inputs.weights * rows)
            if moments != "exact":
                cotangent[:, 1 : updates.core] = 0
    scores = scores.to(trace.weights.dtype)
    return scores[0] if metric is metrics[0] and len(scores) == 1 else scores


def first_order(
    trace: gi.Trace, metric: Measurable | Sequence[Measurable], cost: StyleGANCost, **settings: Any
) -> Float[Tensor, "*metrics N"]:
    """What :func:`shortcut` tends to, divided by s, as s goes to 0: a sum over the steps, each by itself.

    A row moves the discriminator, whose change moves the generator once; what happens between these steps and after
    them is left out.
    """
    return shortcut(trace, metric, cost, scale=_NEARLY_ZERO, **settings) / _NEARLY_ZERO


def published_aid(
    trace: gi.Trace, metric: Measurable, *, terms: int = 1000, scale: float = 1e-3
) -> Float[Tensor, " N"]:
    """AID as the authors' code computes it: of its series the last term alone.

    With the final discriminator and the averaged generator, and with M fresh batches after the end of the run, u goes
    from ``(u_G, u_D) = (grad E, 0)`` through ``u <- u - s J_G^T u_G`` and then ``u <- u - s J_D^T u_D``, M times: the
    generator's turn first, then, of what it left, the discriminator's. ``score_i = s u_D . df_i / 8`` at the end. What
    the code means to add in each turn, grad E, is computed and dropped there: :func:`gan_influence.aid` adds it, as
    TNNLS eq. 18 does, and takes both turns at once.

    Args:
        trace: the run, of which the end and the schedule are used, its cost with denominators of 8 and no penalty.
        metric: what is measured, one number.
        terms: M.
        scale: s, which is eta too.

    Raises:
        ConvergenceError: the term overflowed.
    """
    cost: Any = trace.game.cost
    pays = as_if(trace, replace(cost, denominator="batch", penalty="none")).game
    theta, held = trace.seen(), trace.state().held
    hop = Recorded(partial(_hop, pays, trace.updates.phases(0), scale))
    [cotangent] = gradients_of(as_metrics(metric), trace, [trace.steps])[:, 0]
    for m in range(terms):
        cotangent = hop(cotangent, theta, trace.inputs(trace.steps + m).in_step, held)
    if not cotangent.isfinite().all():
        raise gi.ConvergenceError(
            f"the last of {terms} terms of the published AID overflowed: take fewer, or a smaller s"
        )
    batch, n = trace.inputs(0).in_step, trace.size
    block, scores = len(batch.weights), []
    for start in range(0, n, block):
        part = slice(start, start + block)
        own = batch._replace(rows=trees.take(trace.data, part), weights=trace.weights[part])
        scores += row_terms(pays, theta, [scale * cotangent], own, block, held)
    return trace.weights * torch.cat(scores)


def as_if(trace: gi.Trace, cost: StyleGANCost) -> gi.Trace:
    """The run's end as if its players paid another cost: for :func:`gan_influence.aid`, which does not replay it."""
    game = copy.copy(trace.game)
    game.cost = cost
    return replace(trace, game=game, recorded={})


def _with_moments(trace: gi.Trace, moving: Float[Tensor, "rows d"], end: Float[Tensor, "rows d"]) -> Tensor:
    """The state, but with what the generator's optimiser remembers at the end; parameters and average stay."""
    moving, k, remembered = moving.clone(), list(trace.game.players).index("generator"), slice(1, trace.updates.core)
    trace.game.split(moving)[k][remembered] = trace.game.split(end)[k][remembered]
    return moving


def _hop(
    pays: Game,
    phases: tuple[Phase, ...],
    scale: float,
    cotangent: Float[Tensor, " d"],
    theta: Float[Tensor, " d"],
    batch: Inputs,
    held: Held,
) -> Float[Tensor, " d"]:
    """``(I - s J)^T u`` of one turn after another, backwards, all at the same ``theta``; see :func:`published_aid`."""
    for phase in reversed(phases):
        product, _ = FieldGraph(pays, theta, batch, held, phase.moving).both(cotangent)
        cotangent = cotangent - scale * product
    return cotangent


def _linearise(
    game: Game,
    pays: Game,
    updates: Updates,
    phases: tuple[Phase, ...],
    scale: float,
    state: State,
    seen: Float[Tensor, "rows d"],
    batch: Inputs,
) -> tuple[Tensor, PullBack]:
    """One step of ``game``, differentiated as if ``pays`` were the game; see :func:`shortcut`."""
    passed = []
    moving, held = state
    for phase in phases:
        field = FieldGraph(pays, moving[0], batch, held, phase.moving)
        passed.append((phase, torch.cat([moving[:1], seen[1:]]), field))
        gradient, held = game.field(game.leaves(moving[0]), batch, held, phase.moving)
        moving = updates(phase, batch.time, moving, torch.cat(gradient, dim=-1))

    def pull_back(cotangent: Float[Tensor, "*metrics rows d"]) -> tuple[Tensor, Tensor]:
        terms = batch.weights.new_zeros(*cotangent.shape[:-2], len(batch.weights))
        for phase, before, field in reversed(passed):
            cotangent, c = updates.pull_back(phase, batch.time, before, field.value, cotangent)
            product, of_rows = field.both(c)
            moved = cotangent[..., :1, :] + scale * product.unsqueeze(-2)
            cotangent = torch.cat([moved, cotangent[..., 1:, :]], dim=-2)
            terms = terms + of_rows
        return cotangent, terms

    return moving, pull_back
