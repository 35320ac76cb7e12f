"""Iterative differentiation: the exact derivative of the training run (TNNLS Alg. 1, ICLR Alg. 1-2)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from gan_influence.adjoint import pull_back_step
from gan_influence.checks import is_real
from gan_influence.metrics.metric import Metric, metric_gradients
from gan_influence.recording import Recorded
from gan_influence.trace import Trace

__all__ = ["check_damping", "itd"]


def itd(
    trace: Trace,
    metric: Metric,
    damping: float = 0.0,
    last: int | None = None,
    *,
    at: Sequence[int] | None = None,
    progress: bool = False,
) -> Float[Tensor, "*stops N"]:
    r"""Score all N rows in one sweep: how the metric would change without each of them.

    ``score_j = - w_j dE(theta_T(w)) / dw_j`` (TNNLS eq. 10, 15-17), by the recursion of Alg. 1::

        u <- grad E;  for t = T-1 ... T-last:  score_j += dv_j(theta_t) . u;  u <- Z(theta_t)^T u

    Args:
        trace: the training run.
        metric: what is measured; see :class:`gan_influence.metrics.Metric`.
        damping: gamma >= 0; ``J`` becomes ``J + gamma I`` (TNNLS IV-C4).
        last: trace back that many final steps only; by default all that the trace holds.
        at: stopping times: score the run as if it had ended after each of these steps, in one sweep over the longest.
        progress: show a progress bar.

    Returns:
        ``(N,)``, or ``(len(at), N)``: metric(after removal) - metric(before), in the metric's units; a positive score
        means that removing the row raises the metric.

    Raises:
        ValueError: damping is negative or not finite, ``last`` or ``at`` reach outside the trace, or both are given.
        TypeError: the metric is not differentiable, not a scalar, or does not depend on the generator.
    """
    check_damping(damping)
    if at is not None and last is not None:
        raise ValueError("give either last or at, not both")
    start = trace.window(last)
    stops = [trace.steps] if at is None else trace.stops(at)

    order = sorted(range(len(stops)), key=lambda k: -stops[k])  # the sweep meets the latest stop first
    cotangent = trace.states.new_zeros(len(stops), *trace.states.shape[1:])
    cotangent[:, 0] = metric_gradients(metric, trace.game, trace.thetas([stops[k] for k in order]))
    scores = torch.zeros(len(stops), len(trace.data), dtype=torch.float64, device=trace.data.device)
    latest = stops[order[0]]
    step_back = Recorded(partial(pull_back_step, trace.game, trace.updates, damping))
    for t in tqdm(reversed(range(start, latest)), total=latest - start, desc="itd", unit="step", disable=not progress):
        active = sum(stop > t for stop in stops)
        inputs = trace.inputs(t)
        weights = inputs.of_batch(trace.weights)
        running = 0 if active == 1 else slice(active)  # a stack of one costs more than none
        cotangent[running], rows = step_back(
            cotangent[running], trace.state(t), weights, inputs.rows, inputs.latents, inputs.time
        )
        inputs.add_to_rows(scores[running], -weights * rows)

    scores = scores[torch.tensor(order).argsort()].to(trace.data.dtype)
    return scores[0] if at is None else scores


def check_damping(damping: float) -> None:
    if not is_real(damping) or damping < 0:
        raise ValueError(f"damping must be a finite number >= 0, got {damping!r}")
