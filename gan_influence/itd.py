"""Iterative differentiation: the exact derivative of the training run (TNNLS Alg. 1, ICLR Alg. 1-2)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from gan_influence.adjoint import Sweep
from gan_influence.checkpoint import DamagedFileError, Folder, digest
from gan_influence.checks import is_real
from gan_influence.metrics.metric import Metric, metric_gradients
from gan_influence.recording import PullBack
from gan_influence.steps import step_inputs
from gan_influence.trace import StepInputs, Trace

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
    stops = [stops[k] for k in order]
    cotangent = trace.weights.new_zeros(len(stops), *trace.state().shape)
    seen = torch.stack([trace.seen(stop) for stop in stops])
    cotangent[:, trace.updates.seen] = metric_gradients(metric, trace.game, seen)
    scores = torch.zeros(len(stops), trace.size, dtype=torch.float64, device=trace.weights.device)
    for t, inputs, pull_back in _linearised(trace, damping, start, stops, cotangent, scores, progress):
        running = _running(stops, t)
        cotangent[running], rows = pull_back(cotangent[running])
        inputs.add_to_rows(scores[running], -inputs.of_batch(trace.weights) * rows)

    scores = scores[torch.tensor(order).argsort()].to(trace.weights.dtype)
    return scores[0] if at is None else scores


def _running(stops: list[int], t: int) -> int | slice:
    """Which of the stops, latest first, come after step ``t``; a stack of one costs more than none."""
    active = sum(stop > t for stop in stops)
    return 0 if active == 1 else slice(active)


def _linearised(
    trace: Trace, damping: float, start: int, stops: list[int], cotangent: Tensor, scores: Tensor, progress: bool
) -> Iterator[tuple[int, StepInputs, PullBack]]:
    """Each step's pull-back, last step first. With checkpoints in a folder the sweep's own state is kept there too.

    ``cotangent`` and ``scores`` are the sweep's state: read after each segment, and set where it is resumed.
    """
    sweep, done = Sweep(trace.game, trace.updates, damping), stops[0]
    folder = trace.history.folder
    name = f"sweep-{digest(torch.tensor([start, *stops]), torch.tensor(damping), cotangent)}.pt"
    if folder is not None:
        done = _resume(folder, name, cotangent, scores, done)

    def linearised(t: int, state: Tensor) -> tuple[StepInputs, Tensor, PullBack]:
        inputs = trace.inputs(t)
        shape = cotangent[_running(stops, t)].shape
        return inputs, *sweep(t, state, step_inputs(inputs, trace.weights), shape)

    with tqdm(total=stops[0] - start, initial=stops[0] - done, desc="itd", unit="step", disable=not progress) as bar:
        for begin, end in trace.segments(start, done):
            if trace.keep_graphs:
                state, passed = trace.state(begin), []
                for t in range(begin, end):
                    inputs, state, pull_back = linearised(t, state)
                    passed.append((t, inputs, pull_back))
                trace.check_replay(end, state)
                while passed:
                    yield passed.pop()
                    bar.update()
            else:
                for t in reversed(range(begin, end)):
                    inputs, _, pull_back = linearised(t, trace.state(t))
                    yield t, inputs, pull_back
                    bar.update()
            if folder is not None:
                folder.write(name, {"done": begin, "cotangent": cotangent, "scores": scores})
    if folder is not None:
        folder.remove(name)


def _resume(folder: Folder, name: str, cotangent: Tensor, scores: Tensor, latest: int) -> int:
    """Set the sweep's state to what a killed sweep left, if one did; the step down to which it had come."""
    if not (folder.path / name).exists():
        return latest
    try:
        left = folder.read(name)
    except DamagedFileError as error:
        warnings.warn(f"{error}: the sweep starts over", RuntimeWarning, stacklevel=4)
        return latest
    cotangent.copy_(left["cotangent"])
    scores.copy_(left["scores"])
    return int(left["done"])


def check_damping(damping: float) -> None:
    if not is_real(damping) or damping < 0:
        raise ValueError(f"damping must be a finite number >= 0, got {damping!r}")
