"""Approximate implicit differentiation: the derivative of the equilibrium (TNNLS Alg. 2), stochastic or not."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial, reduce
from operator import add

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from gan_influence import trees
from gan_influence.adjoint import FieldGraph, row_terms
from gan_influence.batch import Inputs
from gan_influence.checks import is_real, is_whole
from gan_influence.devices import repeatable
from gan_influence.finite import ConvergenceError, check_product, check_scores
from gan_influence.game import Game
from gan_influence.itd import check_damping, gradients_of
from gan_influence.metrics.metric import Measurable, check_metric
from gan_influence.progress import shown
from gan_influence.replay.recorded import Recorded
from gan_influence.solvers import ForwardGraph, inverse_norm, newton_steps, solve
from gan_influence.stacking import stacks
from gan_influence.state import Held
from gan_influence.surroundings import undisturbed
from gan_influence.trace import Trace
from gan_influence.trees import Tree

__all__ = ["SOLVERS", "ConvergenceError", "aid"]

SOLVERS = ("neumann", "gmres")
_LOOK_EVERY = 50  # terms of the series; to look at numbers is to wait for the device
_CUT_OFF = 20  # a series of fewer terms is cut off on purpose
_PRODUCTS = 1000  # of GMRES, at least, where it is not the solver that ``terms`` is about


@undisturbed
def aid(
    trace: Trace,
    metric: Measurable,
    terms: int | Sequence[int] = 1000,
    damping: float = 0.0,
    solver: str = "neumann",
    *,
    scale: float | None = None,
    at: Sequence[int] | None = None,
    newton: int = 0,
    tolerance: float | None = None,
    progress: bool = False,
) -> Float[Tensor, "*stops *terms N"]:
    r"""Score all N rows from the final parameters alone (TNNLS eq. 14, 16b, 18, Alg. 2; stochastic: VI-A2).

    ``score_j = dv_j(theta_T) . w`` with ``dv_j = -(eta/N) grad f(D(psi, x_j))`` and, for ``solver="neumann"``::

        w = sum_{m<M} Z_m^T ... Z_1^T grad E        Z_m = I - eta (J(theta_T; batch_{T+m-1}) + gamma I)

    theta_T stays, the batches do not: term m = 1 ... M-1 multiplies by the Z of the rows and latents that the schedule
    gives for step T + m - 1. The schedule simply goes on past the end of the run, so that every term's batch is fresh
    and the scores are reproducible. Each J has its own batch's denominator (TNNLS Appendix B-A); dv_j has that of the
    whole data, whose mean cost the batches stand for, and every row is scored. Where all steps see the same batch, as
    with :class:`gan_influence.FullBatch`, w is ``sum_{m<M} (Z^T)^m grad E``, as in eq. 18.

    This is the adjoint of ``Delta <- Z_m Delta + dv_j``, m = M-1 ... 1, the linearised steps of a run that stays at
    theta_T. Alg. 2 with a fresh batch a step, ``w <- Z_m^T w + grad E``, nests the factors the other way round: with
    independent batches it has the same expectation, but in small games it scattered 1.2 to 14 times as much about it.

    ``solver="gmres"`` gives the limit, the solution of ``(I - Z^T) w = grad E``. Its J is the mean of those of the
    batches of steps T, T + 1, ..., until they hold N rows, each weighted by its number of rows. For
    :class:`gan_influence.Minibatches` that is an epoch, and J that of all rows, where T is a multiple of an epoch;
    elsewhere it is as many steps, of which some end one epoch and the others begin the next.

    Of the optimiser the learning rates enter, those of the run's last step, and the weight decay, which shifts the
    equilibrium as ``l2`` does: J is that of ``v + weight_decay * theta``. At an equilibrium momentum is spent, the
    averaged generator is the generator, and the order of moves does not matter. The metric's gradient is taken where
    the metric looks.

    Beyond the paper are ``newton`` and ``tolerance``. AID is about an equilibrium, which a run need not have reached.
    Newton's steps ``theta <- theta - J^-1 v`` go there, each to an error of the order of the last one's square
    (Newton-Kantorovich). Scores are then nearer to what a removal does to the equilibrium; not to what it does to a run
    that ends before it gets there, which is :func:`gan_influence.itd`'s to say. A ``tolerance`` ends the series where
    what it lacks, ``w - w_M = (I - Z^T)^-1 (Z^T)^M grad E``, is small, be ``|Z|`` above 1 or not.

    Args:
        trace: the training run; only its end and its schedule are used.
        metric: what is measured.
        terms: ``M >= 1``, the terms of the series, m = 0 ... M-1; several numbers are read off one series. For GMRES
            the largest number of products with ``J^T``. A series that diverges without overflowing is returned as it
            is, as in the paper, with a warning; GMRES tells what it should have tended to. A product of GMRES takes
            its whole epoch. A series ends early where eta times its term is zero in the type of the parameters, as
            damping makes it: what is left out is below the smallest number once it is multiplied by eta.
        damping: gamma >= 0 (TNNLS IV-C4).
        solver: ``"neumann"`` or ``"gmres"``.
        scale: eta of TNNLS eq. 11; by default each player's learning rate at the last step, which must not be 0.
        at: stopping times: score the run as if it had ended after each of these steps. All use the learning rates of
            the trace's last step and the batches after the trace's end, T = ``trace.steps``.
        newton: how many of Newton's steps are taken before scoring. ``v`` is each player's own gradient, with the rows'
            weights, ``l2`` and weight decay; it and J are means over the batches that GMRES takes. ``damping`` has no
            part in them: it would slow them down, not lead elsewhere. The metric's gradient is taken where they lead,
            also where training averages its generator, which at an equilibrium is the average. A step is one solution
            by GMRES, of at most ``max(terms, 1000)`` products ``J u``, each at the price of a term.
        tolerance: end the series at the first M <= ``terms`` with
            ``|(I - Z)^-1| |(Z^T)^M grad E| <= tolerance |w_M|``, after M products with ``J^T`` and those that
            ``|(I - Z)^-1|`` takes. For d <= 256 parameters these are d, and the left side is a bound of ``|w - w_M|``,
            up to rounding. Beyond, it is an estimate: ``|(I - Z)^-1|`` is found from below, from some ten solutions by
            GMRES of at most ``max(terms, 1000)`` products each.
        progress: show a progress bar.

    Returns:
        ``(N,)``; with several ``terms`` ``(len(terms), N)``; with ``at`` a leading dimension ``len(at)``.

    Warns:
        RuntimeWarning: the series, of 20 terms or more, does not converge: its last term is not small beside its sum.

    Raises:
        ValueError: M < 1, damping < 0, an unknown solver, several ``terms`` for GMRES, ``at`` outside the trace, a
            schedule that does not go on past the end of the run, a learning rate of 0 at the last step, a second
            derivative of the game that is NaN or infinite, ``newton`` < 0; a ``tolerance`` that is not above 0, or
            given for GMRES, with several ``terms``, or where steps do not all see the same batch.
        TypeError: the metric is not differentiable, not a scalar, or does not depend on the generator.
        ConvergenceError: the series overflowed, or missed ``tolerance`` within ``terms``; GMRES missed its own within
            so many products; a step of Newton's did not make ``|v|`` smaller.
    """
    check_damping(damping)
    counts = _check_terms(terms)
    if solver not in SOLVERS:
        raise ValueError(f"unknown solver {solver!r}; known solvers: {', '.join(SOLVERS)}")
    if solver == "gmres" and not is_whole(terms):
        raise ValueError(
            "GMRES has no partial sums to read off: give one number of terms, the most products it may use"
        )
    if scale is not None and (not is_real(scale) or scale <= 0):
        raise ValueError(f"scale must be a finite number above 0, got {scale!r}")
    if not is_whole(newton) or newton < 0:
        raise ValueError(f"newton must be a whole number of steps >= 0, got {newton!r}")
    _check_tolerance(tolerance, terms, solver)

    stops = [trace.steps] if at is None else trace.stops(at)
    theta = torch.stack([trace.theta(stop) for stop in stops])
    seen = torch.stack([trace.seen(stop) for stop in stops])
    check_metric(metric, trace.game, seen[-1], trace.held(stops[-1]))
    products = max(*counts, _PRODUCTS)

    with repeatable(theta.device):
        if newton:
            theta = seen = _moved(trace, theta, newton, products, stops)
        gradient = gradients_of([metric], trace, stops, seen)[0]
        shift = damping + trace.updates.weight_decays(theta)
        if solver == "neumann":
            eta = _scaling(trace, theta) if scale is None else theta.new_full((trace.game.size,), scale)
            _check_series(trace, max(counts) + (tolerance is not None))
            if tolerance is not None:
                of_stops = zip(theta, stops, strict=True)
                norms = [_inverse_norm(trace, one, eta, shift, products, stop) for one, stop in of_stops]
                inverses = theta.new_tensor(norms, dtype=torch.float64)
            if len(stops) > 1:
                stacks(trace)
            else:  # for one model vmap only costs: half as much again a product
                theta, gradient = theta[0], gradient[0]
            if tolerance is None:
                field = _Field(trace, theta)
                sums = _neumann(field, trace.steps, gradient, eta, shift, counts, stops, progress)
            else:
                field = _SharedField(trace, theta)
                series = _terms(field, trace.steps, gradient, eta, shift)
                sums = [_sum_within(tolerance, series, inverses, counts[0], stops, progress)]
            rows = torch.stack(field.row_terms([-eta * total for total in sums]), dim=-2)
            rows = rows.reshape(len(stops), len(counts), trace.size)
            _check_overflow(rows, max(counts), stops)
        else:
            rows = theta.new_empty(len(stops), 1, trace.size)
            epoch = _epoch(trace)
            for k, stop in enumerate(stops):
                field = _Field(trace, theta[k])
                (rows[k, 0],) = field.row_terms([-_gmres(field, epoch, gradient[k], shift, counts[0], stop)])

    scores = 0 - trace.weights * rows  # a removed row scores 0, not -0
    check_scores(scores, "AID")
    if is_whole(terms):
        scores = scores.squeeze(1)
    return scores[0] if at is None else scores


def _scaling(trace: Trace, theta: Float[Tensor, "stops d"]) -> Float[Tensor, " d"]:
    """Each parameter's learning rate at the last step."""
    last = max(trace.steps - 1, 0)
    eta = trace.updates.learning_rates(theta, last)
    for player, own in zip(trace.game.players.values(), trace.game.split(eta), strict=True):
        if own.numel() and not own.any():
            raise ValueError(
                f"the {player.role}'s learning rate is 0 at the last step, {last}, and so would be AID's scores: give "
                "the scaling coefficient eta (TNNLS eq. 11) as scale=, such as the rate that most steps had"
            )
    return eta


class _Field:
    """The field at one ``theta``, or a stack of them, of any step's batch: products with ``J^T``, and row terms.

    Steps that see the whole of the data and the same latents share one graph. Every other batch is linearised for its
    own product, so that memory does not grow with their number.
    """

    def __init__(self, trace: Trace, theta: Float[Tensor, "*stops d"]):
        self._trace, self._theta, self._held = trace, theta, trace.state().held
        end = max(trace.steps - 1, 0)
        first, last = trace.inputs(min(trace.first, end)), trace.inputs(end)
        self._block = max(_size(first), _size(last))  # an epoch's last batch may be a single row
        self._whole: FieldGraph | None = None
        if last.indices is None:
            self._whole = _graph(trace.game, theta, last, self._held)
            self._of_whole, self._last = Recorded(self._whole.transpose_product), last

    def transpose_product(self, t: int, cotangent: Float[Tensor, "*stops d"]) -> Float[Tensor, "*stops d"]:
        """``J(theta; batch_t)^T c``."""
        inputs = self._trace.inputs(t)
        return self._of_whole(cotangent) if self._is_whole(inputs) else self._of_batch(_product, inputs, cotangent)

    def product(self, t: int, direction: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        """``J(theta; batch_t) u``."""
        inputs = self._trace.inputs(t)
        if self._is_whole(inputs):
            return self._forward_of_whole(direction)
        return self._of_batch(_forward_product, inputs, direction)

    def value(self, t: int) -> Float[Tensor, " d"]:
        """``v(theta; batch_t)``."""
        inputs = self._trace.inputs(t)
        if self._whole is not None and self._is_whole(inputs):
            return self._whole.value
        return _graph(self._trace.game, self._theta, inputs, self._held).value

    def _is_whole(self, inputs: Inputs) -> bool:
        if self._whole is None or inputs.indices is not None or inputs.turn != self._last.turn:
            return False
        return trees.equal((inputs.latents, inputs.noise), (self._last.latents, self._last.noise))

    @cached_property
    def _forward_of_whole(self) -> Recorded[Tensor]:
        assert self._whole is not None
        return Recorded(ForwardGraph(self._whole).product)

    def _of_batch(self, function: Callable[..., Tensor], inputs: Inputs, vector: Tensor) -> Tensor:
        game = self._trace.game
        recorded = self._trace.recorded.setdefault((game, function), Recorded(partial(function, game)))
        return recorded(vector, self._theta, inputs.in_step, self._held)

    def row_terms(self, cotangents: list[Float[Tensor, "*stops d"]]) -> list[Float[Tensor, "*stops N"]]:
        """``d<c, v_w> / dw_i`` of the batch of all N rows, for each ``c``; no more rows at a time than in training."""
        if self._whole is not None:
            return [self._whole.row_terms(c) for c in cotangents]
        trace, n = self._trace, self._trace.size
        blocks = []
        for k, start in enumerate(range(0, n, self._block)):
            rows = trees.take(trace.data, slice(start, start + self._block))
            batch = _beside(rows, trace.inputs(max(trace.steps - 1 - k, trace.first)))
            blocks.append(row_terms(trace.game, self._theta, cotangents, batch, n, self._held))
        return [torch.cat(terms, dim=-1) for terms in zip(*blocks, strict=True)]


class _SharedField(_Field):
    """The field where all steps see the same batch."""

    def _of_batch(self, function: Callable[..., Tensor], inputs: Inputs, vector: Tensor) -> Tensor:
        raise ValueError(
            f"tolerance= needs steps that all see the same batch, as with FullBatch, but step {int(inputs.time)} has "
            "one of its own: a stochastic series has no limit to come near. Take solver='gmres', the limit for the "
            "batches' mean, or leave tolerance out and give terms"
        )


def _product(
    game: Game, cotangent: Tensor, theta: Float[Tensor, "*stops d"], batch: Inputs, held: Held
) -> Float[Tensor, "*stops d"]:
    return _graph(game, theta, batch, held).transpose_product(cotangent)


def _forward_product(
    game: Game, direction: Tensor, theta: Float[Tensor, " d"], batch: Inputs, held: Held
) -> Float[Tensor, " d"]:
    return ForwardGraph(_graph(game, theta, batch, held)).product(direction)


def _graph(game: Game, theta: Float[Tensor, "*stops d"], batch: Inputs, held: Held) -> FieldGraph:
    stops = theta.shape[:-1]
    own = {name: value.expand(*stops, *value.shape) for name, value in held.items()}
    return FieldGraph(game, theta, batch._replace(weights=batch.weights.repeat(*stops, 1)), own)


def _size(inputs: Inputs) -> int:
    return trees.length(inputs.rows)


def _beside(rows: Tree, drawn: Inputs) -> Inputs:
    """Rows beside a step's draws, as many of these as there are rows."""
    n, size = trees.length(rows), trees.length(drawn.rows)

    def own(leaf: Tensor) -> Tensor:
        return leaf[:n] if leaf.ndim and len(leaf) == size else leaf

    latents, noise = (None if tree is None else trees.mapped(own, tree) for tree in (drawn.latents, drawn.noise))
    return Inputs(rows, latents, noise, drawn.weights, drawn.time, drawn.turn)


def _after_the_end(trace: Trace, t: int, wanted: str) -> Inputs:
    """The batch of a step that training has not taken."""
    try:
        return trace.inputs(t)
    except Exception as error:
        raise ValueError(
            f"the schedule gives no batch of step {t} ({type(error).__name__}: {error}). {wanted}. Let the schedule go "
            "on past the end of the run, as Minibatches and FullBatch do"
        ) from error


def _check_series(trace: Trace, terms: int) -> None:
    """Does the schedule go on for that many terms? Better said before the series than at its end."""
    if terms > 1:
        first, last = trace.steps, trace.steps + terms - 2
        wanted = (
            f"AID with {terms} terms uses those of steps {first} to {last}, after the end of the run: each term beyond "
            "the first takes a fresh batch (TNNLS VI-A2)"
        )
        _after_the_end(trace, last, wanted)


def _epoch(trace: Trace) -> dict[int, float]:
    """The steps after the end whose batches make up N rows or just more, and each one's share of these rows."""
    sizes: dict[int, int] = {}
    wanted = (
        f"AID with solver='gmres' uses those from step {trace.steps} on, after the end of the run, until they hold "
        f"{trace.size} rows: their mean stands for the whole data"
    )
    t, held = trace.steps, 0
    while held < trace.size:
        sizes[t] = _size(_after_the_end(trace, t, wanted))
        held += sizes[t]
        t += 1
    return {t: size / held for t, size in sizes.items()}


class _MeanField:
    """The field of the mean over the steps of ``epoch``, with the optimisers' weight decay: 0 at an equilibrium."""

    def __init__(self, trace: Trace, epoch: dict[int, float], decay: Float[Tensor, " d"], theta: Float[Tensor, " d"]):
        self._epoch, self._decay, self._theta = epoch, decay, theta
        self._field = _Field(trace, theta)

    def value(self) -> Float[Tensor, " d"]:
        """``v(theta) + weight_decay * theta``."""
        return _mean(self._epoch, self._field.value) + self._decay * self._theta

    def product(self, direction: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        """``(J(theta) + weight_decay) u``."""
        mean = _mean(self._epoch, lambda t: self._field.product(t, direction))
        check_product(mean, direction)
        return mean + self._decay * direction


def _mean(epoch: dict[int, float], of_step: Callable[[int], Tensor]) -> Tensor:
    return reduce(add, (share * of_step(t) for t, share in epoch.items()))


def _moved(
    trace: Trace, theta: Float[Tensor, "stops d"], newton: int, products: int, stops: list[int]
) -> Float[Tensor, "stops d"]:
    """Each stop's parameters after so many of Newton's steps."""
    field_at = partial(_MeanField, trace, _epoch(trace), trace.updates.weight_decays(theta))
    return torch.stack(
        [newton_steps(field_at, one, newton, products, stop) for one, stop in zip(theta, stops, strict=True)]
    )


def _inverse_norm(
    trace: Trace,
    theta: Float[Tensor, " d"],
    eta: Float[Tensor, " d"],
    shift: Float[Tensor, " d"],
    products: int,
    stop: int,
) -> float:
    """``|(I - Z)^-1|``, where ``I - Z`` is ``eta (J + shift)``, a learning rate a row."""
    field = _SharedField(trace, theta)

    def product(u: Tensor) -> Tensor:
        return eta * (field.product(trace.steps, u) + shift * u)

    def transpose_product(c: Tensor) -> Tensor:
        scaled = eta * c
        product = field.transpose_product(trace.steps, scaled)
        check_product(product, scaled)
        return product + shift * scaled

    return inverse_norm(product, transpose_product, theta, products, f"I - Z at step {stop}")


def _neumann(
    field: _Field,
    end: int,
    gradient: Float[Tensor, "*stops d"],
    eta: Float[Tensor, " d"],
    shift: Float[Tensor, " d"],
    counts: list[int],
    stops: list[int],
    progress: bool,
) -> list[Float[Tensor, "*stops d"]]:
    """``sum_{m<M} Z_m^T ... Z_1^T grad E`` for each M of ``counts``, from one series; Z_1 is that of step ``end``.

    ``shift`` is what is added to the diagonal of each J: the damping and the optimisers' weight decay.
    """
    series = _terms(field, end, gradient, eta, shift)
    term = next(series)
    total, sums = term.clone(), {1: term}
    for m in tqdm(range(1, max(counts)), desc="aid", unit="term", disable=not shown(progress)):
        if m % _LOOK_EVERY == 0 and _settled(eta * term):
            break
        term = next(series)
        total += term
        if m + 1 in counts:
            sums[m + 1] = total.clone()
    _check_overflow(total, max(counts), stops)
    _warn_of_divergence(term, total, max(counts), stops)
    return [sums.get(count, total) for count in counts]


def _terms(
    field: _Field,
    end: int,
    gradient: Float[Tensor, "*stops d"],
    eta: Float[Tensor, " d"],
    shift: Float[Tensor, " d"],
) -> Iterator[Float[Tensor, "*stops d"]]:
    """``grad E``, ``Z_1^T grad E``, ``Z_2^T Z_1^T grad E`` and so on."""
    term = gradient
    for t in itertools.count(end):
        yield term
        scaled = eta * term
        product = field.transpose_product(t, scaled)
        if t == end:
            check_product(product, scaled)
        term = term - product - shift * scaled


def _sum_within(
    tolerance: float,
    series: Iterator[Float[Tensor, "*stops d"]],
    inverses: Float[Tensor, " stops"],
    terms: int,
    stops: list[int],
    progress: bool,
) -> Float[Tensor, "*stops d"]:
    """At each stop ``w_M`` of the first ``M <= terms`` with ``|(I - Z)^-1| |(Z^T)^M grad E| <= tolerance |w_M|``.

    The left side bounds ``|w - w_M|``, for ``w - w_M = (I - Z^T)^-1 (Z^T)^M grad E``.
    """
    term = next(series)
    total = torch.zeros_like(term)
    is_far = torch.ones_like(inverses, dtype=torch.bool)
    for m in tqdm(range(1, terms + 1), desc="aid", unit="term", disable=not shown(progress)):
        total = torch.where(is_far.view(*term.shape[:-1], 1), total + term, total)
        _check_overflow(total, m, stops)
        term = next(series)
        last, whole = (vector.reshape(len(stops), -1).norm(dim=1) for vector in (term, total))
        is_far &= ~(whole.isfinite() & (inverses * last <= tolerance * whole))  # squares overflow before sums do
        if not is_far.any():
            return total
    ratios = [f"{ratio:.2g}" for ratio in (inverses * last / whole)[is_far].tolist()]
    where = [str(stop) for stop, far in zip(stops, is_far.tolist(), strict=True) if far]
    raise ConvergenceError(
        f"AID's series has not come within tolerance={tolerance:g} of its limit after {m} terms at step "
        f"{', '.join(where)}: |(I - Z)^-1| |(Z^T)^{m} grad E| is {', '.join(ratios)} of its sum, with |(I - Z)^-1| = "
        f"{', '.join(f'{norm:.2g}' for norm in inverses[is_far].tolist())}. Allow more terms, add damping, or take "
        "solver='gmres', which gives the limit"
    )


def _settled(scaled: Float[Tensor, "*stops d"]) -> bool:
    """Is eta times the term zero at every stop, or not finite? Then no product with J changes the term any more."""
    stops = scaled.reshape(-1, scaled.shape[-1])
    return bool((~stops.any(1) | ~stops.isfinite().all(1)).all())


def _check_overflow(numbers: Float[Tensor, "*stops ..."], terms: int, stops: list[int]) -> None:
    finite = numbers.reshape(len(stops), -1).isfinite().all(1)
    if not finite.all():
        where = [stop for stop, good in zip(stops, finite.tolist(), strict=True) if not good]
        raise ConvergenceError(
            f"the Neumann series of {terms} terms overflowed at step {', '.join(map(str, where))}: Z = I - eta J "
            "has an eigenvalue outside the unit circle there. Take fewer terms, add damping, or use solver='gmres'"
        )


def _warn_of_divergence(
    term: Float[Tensor, "*stops d"], total: Float[Tensor, "*stops d"], terms: int, stops: list[int]
) -> None:
    """A sum whose last term is twice their average, and more, is not near its limit, or has none."""
    last, whole = (vector.reshape(len(stops), -1).norm(dim=1).tolist() for vector in (term, total))
    large = [k for k in range(len(stops)) if terms >= _CUT_OFF and terms * last[k] > 2 * whole[k]]
    if large:
        k = large[0]
        warnings.warn(
            f"AID's series does not converge at step {', '.join(str(stops[k]) for k in large)}: the last of its "
            f"{terms} terms has norm {last[k]:.2g}, their sum {whole[k]:.2g}. The scores depend on the number of "
            'terms: add damping, take a smaller scale, or solver="gmres" for the limit; and ask '
            "gi.validate(trace, metric, scores)",
            RuntimeWarning,
            stacklevel=5,
        )


def _gmres(
    field: _Field,
    epoch: dict[int, float],
    gradient: Float[Tensor, " d"],
    shift: Float[Tensor, " d"],
    products: int,
    stop: int,
) -> Float[Tensor, " d"]:
    """``eta w`` for the limit ``w``: ``(I - Z^T) w = grad E`` is ``(J + gamma I)^T (eta w) = grad E``.

    ``J`` is the mean over the steps of ``epoch`` with these shares; ``shift``: gamma and the optimisers' weight decay.
    """

    def product(c: Tensor) -> Tensor:
        mean = _mean(epoch, lambda t: field.transpose_product(t, c))
        check_product(mean, c)
        return mean + shift * c

    return solve(product, gradient, products, f"at step {stop}: allow more terms, or add damping")


def _check_terms(terms: int | Sequence[int]) -> list[int]:
    counts = list(terms) if isinstance(terms, Sequence | np.ndarray) else [terms]
    if not counts or not all(is_whole(count) and count >= 1 for count in counts):
        raise ValueError(f"terms must be a whole number >= 1, or several, got {terms!r}")
    return counts


def _check_tolerance(tolerance: float | None, terms: int | Sequence[int], solver: str) -> None:
    if tolerance is None:
        return
    if not is_real(tolerance) or tolerance <= 0:
        raise ValueError(f"tolerance must be a finite number above 0, or None, got {tolerance!r}")
    if solver != "neumann":
        raise ValueError(
            f"tolerance ends the Neumann series, but solver={solver!r} has none: leave tolerance out, or take "
            "solver='neumann'"
        )
    if not is_whole(terms):
        raise ValueError(
            f"a series that ends at tolerance={tolerance:g} has no other ends: give one number of terms, the most that "
            f"it may take, got {terms!r}"
        )
