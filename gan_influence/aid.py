"""Approximate implicit differentiation: the derivative of the equilibrium (TNNLS Alg. 2), stochastic or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from gan_influence.checks import check, check_not_negative, is_whole
from gan_influence.curvature import Continuation, ShiftedField
from gan_influence.devices import repeatable
from gan_influence.finite import ConvergenceError, check_scores
from gan_influence.gauss_newton import curved
from gan_influence.itd import gradients_of
from gan_influence.metrics.metric import Measurable, as_metrics, check_metric
from gan_influence.restriction import AnyField, RestrictedField, places
from gan_influence.solvers.names import DEFAULT_TERMS, chosen
from gan_influence.solvers.newton import newton_steps
from gan_influence.solvers.protocol import Solver, check_solution
from gan_influence.surroundings import undisturbed
from gan_influence.trace import Trace

__all__ = ["ConvergenceError", "aid"]

_PRODUCTS = 1000  # of each of Newton's steps, at least


@undisturbed
def aid(
    trace: Trace,
    metric: Measurable | Sequence[Measurable],
    terms: int | Sequence[int] = DEFAULT_TERMS,
    damping: float = 0.0,
    solver: str | Solver = "neumann",
    *,
    scale: float | None = None,
    at: Sequence[int] | None = None,
    newton: int = 0,
    tolerance: float | None = None,
    curvature: str = "hessian",
    parameters: str | Sequence[str] | None = None,
    progress: bool = False,
) -> Float[Tensor, "*metrics *stops *terms N"]:
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
        metric: what is measured; several share J and its products, as the numbers of one that is a vector do.
        terms: ``M >= 1``, the terms of the series, m = 0 ... M-1; several numbers are read off one series. For other
            solvers the most products, or steps: by default 1000, for ``"lissa"`` and ``"momentum"`` their own numbers.
            A series that diverges without overflowing is returned as it is, as in the paper, with a warning; GMRES
            tells what it should have tended to. A product of GMRES takes its whole epoch. A series ends early where eta
            times its term is zero in the type of the parameters, as damping makes it: what is left out is below the
            smallest number once it is multiplied by eta.
        damping: gamma >= 0 (TNNLS IV-C4).
        solver: what solves ``A^T x = grad E`` with ``A = J + gamma I``, for ``score_j = -grad f(D(psi, x_j)) . x / N``:
            x is eta times the w above. A name is short for an object: ``"neumann"`` for ``gi.solvers.Neumann(terms,
            tolerance, scale)``, ``"gmres"`` for ``gi.solvers.GMRES(products=terms)``; and ``"cg"``,
            ``"normal_equations"``, ``"lissa"`` and ``"momentum"`` for :class:`gan_influence.solvers.CG`,
            ``NormalEquations``, ``LiSSA`` and ``Momentum``, which take the same J as GMRES. An object has its settings
            itself, so that ``terms``, ``scale`` and ``tolerance`` are refused besides; it may be one of your own, see
            :class:`gan_influence.solvers.Solver`.
        scale: eta of TNNLS eq. 11; by default each player's learning rate at the last step, which must not be 0.
        at: stopping times: score the run as if it had ended after each of these steps. All use the learning rates of
            the trace's last step and the batches after the trace's end, T = ``trace.steps``.
        newton: how many of Newton's steps are taken before scoring. ``v`` is each player's own gradient, with the rows'
            weights, ``l2`` and weight decay; it and J are means over the batches that GMRES takes. ``damping`` has no
            part in them: it would slow them down, not lead elsewhere. The metric's gradient is taken where they lead,
            also where training averages its generator, which at an equilibrium is the average. A step is one solution
            by GMRES, of at most ``max(terms, 1000)`` products ``J u`` (1000 where ``solver`` is an object), each at the
            price of a term.
        tolerance: end the series at the first M <= ``terms`` with
            ``|(I - Z)^-1| |(Z^T)^M grad E| <= tolerance |w_M|``, after M products with ``J^T`` and those that
            ``|(I - Z)^-1|`` takes. For d <= 256 parameters these are d, and the left side is a bound of ``|w - w_M|``,
            up to rounding. Beyond, it is an estimate: ``|(I - Z)^-1|`` is found from below, from some ten solutions by
            GMRES of at most ``max(terms, 1000)`` products each. For ``"cg"``, ``"normal_equations"``, ``"lissa"`` and
            ``"momentum"`` it is the relative residual's.
        curvature: ``"hessian"``: J itself, which for one player is the Hessian of its cost; or ``"gauss_newton"``, for
            a model and a loss that is convex in its outputs f: ``(1/|B|) sum_i w_i Df_i^T l''_i Df_i + l2 I``, which is
            never indefinite, where the Hessian is so short of a minimum. Products with it take a pass forward more.
        parameters: through which alone a row has influence, the rest being held: a pattern of their names with their
            player's, or several, such as ``"model.4.*"`` or ``["*.weight"]``; by default all. J is then its block of
            these parameters, the gradients are theirs, and Newton's steps move no others.
        progress: show a progress bar.

    Returns:
        ``(N,)``; with several ``terms``, or another solver that reads several solutions off, ``(len(terms), N)``; with
        ``at`` a leading dimension ``len(at)``. Of several metrics, or a vector, with one before these.

    Warns:
        RuntimeWarning: the series, of 20 terms or more, does not converge: its last term is not small beside its sum.
            Or LiSSA or momentum, without a tolerance, leaves a residual above a tenth.

    Raises:
        ValueError: M < 1, damping < 0, an unknown solver or curvature, a Gauss-Newton curvature of a game that is not a
            model and a loss convex in its outputs, several ``terms`` for another solver than the series, ``at`` outside
            the trace, a schedule that does not go on past the end of the run, a learning rate of 0 at the last step, a
            second derivative of the game that is NaN or infinite, ``newton`` < 0; a ``tolerance`` that is not above 0,
            or that rounding alone exceeds, given for GMRES, with several ``terms``, or where steps do not all see the
            same batch; ``terms``, ``scale`` or ``tolerance`` besides a solver that is an object; a pattern of
            ``parameters`` that matches none, or some of which neither the metric nor a row's cost depends.
        TypeError: the metric is not differentiable, not a scalar, or depends on no player; a solver
            returns something else than a :class:`gan_influence.solvers.Solution`; a pattern is no string.
        ConvergenceError: a solver has not converged: the series overflowed, or missed ``tolerance`` within ``terms``;
            GMRES or another missed its own within so many products; CG met a matrix that is not symmetric and positive
            definite; LiSSA or momentum diverged; a step of Newton's did not make ``|v|`` smaller.
    """
    check_not_negative(damping=damping)
    settings, most = chosen(solver, terms, scale, tolerance)
    check(is_whole(newton) and newton >= 0, "newton", "a whole number of steps >= 0", newton)

    stops = [trace.steps] if at is None else trace.stops(at)
    theta = torch.stack([trace.theta(stop) for stop in stops])
    seen = torch.stack([trace.seen(stop) for stop in stops])
    metrics = as_metrics(metric)
    for one in metrics:
        check_metric(one, trace.game, seen[-1], trace.held(stops[-1]))
    continuation = Continuation(trace)
    moving = slice(None) if parameters is None else places(trace.game, parameters).to(theta.device)

    def restricted(field: ShiftedField) -> AnyField:
        return field if isinstance(moving, slice) else RestrictedField(field, moving)

    with repeatable(theta.device):
        if newton:
            moved = partial(_moved, continuation, restricted, moving, newton, max(most, _PRODUCTS))
            theta = seen = torch.stack([moved(one, stop) for one, stop in zip(theta, stops, strict=True)])
        gradients, game = gradients_of(metrics, trace, stops, seen)[..., moving], curved(trace, curvature, theta)
        if parameters is not None and not gradients.any():
            raise ValueError(f"no metric depends on parameters={parameters!r}, so that all scores would be 0")
        if len(gradients) == 1:
            operator = restricted(ShiftedField(continuation, theta, stops, damping, game))
            rows = _weight_slopes(settings, operator, gradients[0], progress).unsqueeze(0)
        else:
            operators = [
                restricted(ShiftedField(continuation, one, [stop], damping, game))
                for one, stop in zip(theta, stops, strict=True)
            ]
            of_stops = zip(operators, gradients.unbind(1), strict=True)
            rows = torch.stack([_solved(settings, one, b, progress).movedim(-2, 0) for one, b in of_stops], dim=1)

    scores = 0 - trace.weights * rows  # a removed row scores 0, not -0
    check_scores(scores, "AID")
    if at is None:
        scores = scores.squeeze(1)
    return scores[0] if metric is metrics[0] and len(scores) == 1 else scores


def _weight_slopes(
    solver: Solver, operator: AnyField, gradient: Float[Tensor, "stops d"], progress: bool
) -> Float[Tensor, "stops *terms N"]:
    """``dE / dw_i`` at each stop: all of them at once, if the solver lets each row have a matrix of its own."""
    ends: tuple[Iterator[AnyField], Sequence[Tensor]] = operator.apart(), gradient.split(1)
    if getattr(solver, "rowwise", False):
        ends = iter([operator]), (gradient,)
    return torch.cat([_solved(solver, one, b, progress).movedim(-2, 0) for one, b in zip(*ends, strict=True)])


def _solved(solver: Solver, operator: AnyField, b: Float[Tensor, "k d"], progress: bool) -> Float[Tensor, "*terms k N"]:
    """``dE / dw_i``, for ``A^T x = b = grad E``."""
    found = solver.solve(operator, b, progress=progress)
    check_solution(found, solver, operator, b)
    slopes = operator.weight_slopes(found.x)
    over = ~slopes.isfinite().all(-1) & (found.x.abs().amax(-1) > torch.finfo(b.dtype).max ** 0.5)
    if over.any():
        raise ConvergenceError(
            f"the scores overflowed at {operator.where(over.reshape(-1, len(b)).any(0))}: the solution is of size "
            f"{found.x.abs().max():.1g}. Add damping, or take fewer terms or solver='gmres'"
        )
    return slopes


def _moved(
    continuation: Continuation,
    restricted: Callable[[ShiftedField], AnyField],
    moving: slice | Tensor,
    newton: int,
    products: int,
    theta: Float[Tensor, " d"],
    stop: int,
) -> Float[Tensor, " d"]:
    """A stop's parameters after so many of Newton's steps, of those that move."""

    def moved_to(part: Float[Tensor, " m"]) -> Float[Tensor, " d"]:
        whole = theta.clone()
        whole[moving] = part
        return whole

    def field_at(part: Float[Tensor, " m"]) -> AnyField:
        return restricted(ShiftedField(continuation, moved_to(part), [stop], 0.0))

    return moved_to(newton_steps(field_at, theta[moving], newton, products, stop))
