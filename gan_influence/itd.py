"""Iterative differentiation: the exact derivative of the training run (TNNLS Alg. 1, ICLR Alg. 1-2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from gan_influence.adjoint import Linearised
from gan_influence.batch import Inputs
from gan_influence.checks import check_not_negative
from gan_influence.finite import check_scores
from gan_influence.history import DamagedFileError, Folder, digest
from gan_influence.metrics.metric import Measurable, as_metrics, check_metric, metric_gradients
from gan_influence.progress import shown
from gan_influence.replay.recorded import PullBack
from gan_influence.stacking import stacks
from gan_influence.surroundings import undisturbed, warn
from gan_influence.trace import Trace

__all__ = ["itd"]

# Of a step: its batch, and pull-backs, each of some of the cotangents.
Passes: TypeAlias = tuple[Inputs, Iterable[tuple[int | slice, PullBack]]]

_NUMBERS_TOGETHER = 2**18  # of the cotangents in a pass: 2 MiB of float64, twice as fast as 60 MiB
_FEWEST_TOGETHER = 16  # but so many share the pass forward, however large they are


@undisturbed
def itd(
    trace: Trace,
    metric: Measurable | Sequence[Measurable],
    damping: float = 0.0,
    last: int | None = None,
    *,
    at: Sequence[int] | None = None,
    progress: bool = False,
) -> Float[Tensor, "*metrics *stops N"]:
    r"""Score all N rows in one sweep: how the metric would change without each of them.

    ``score_j = - w_j dE(theta_T(w)) / dw_j`` (TNNLS eq. 10, 15-17), by the recursion of Alg. 1::

        u <- grad E;  for t = T-1 ... T-last:  score_j += dv_j(theta_t) . u;  u <- Z(theta_t)^T u

    Args:
        trace: the training run.
        metric: what is measured; see :class:`gan_influence.metrics.Metric`. Several share one sweep, as the numbers of
            one that is a vector do.
        damping: gamma >= 0; ``J`` becomes ``J + gamma I`` (TNNLS IV-C4).
        last: trace back that many final steps only; by default all that the trace holds.
        at: stopping times: score the run as if it had ended after each of these steps, in one sweep over the longest.
        progress: show a progress bar.

    Returns:
        ``(N,)``, or ``(len(at), N)``: metric(after removal) - metric(before), in the metric's units; a positive score
        means that removing the row raises the metric. Of several metrics, or a vector, with a leading dimension.

    Raises:
        ValueError: damping is negative or not finite, ``last`` or ``at`` reach outside the trace, or both are given.
        TypeError: the metric is not differentiable, not a scalar, or depends on no player.
    """
    check_not_negative(damping=damping)
    if at is not None and last is not None:
        raise ValueError("give either last or at, not both")
    start = trace.window(last)
    stops = [trace.steps] if at is None else trace.stops(at)

    metrics = as_metrics(metric)
    for one in metrics:
        check_metric(one, trace.game, trace.seen(max(stops)), trace.held(max(stops)))
    order = sorted(range(len(stops)), key=lambda k: -stops[k])
    sweep = _Sweep(trace, metrics, damping, start, [stops[k] for k in order])
    with tqdm(total=sweep.down_to - start, desc="itd", unit="step", disable=not shown(progress)) as bar:
        for begin, end in trace.segments(start, sweep.down_to):
            sweep.through(begin, end, bar)
    scores = sweep.finished()[torch.tensor(order).argsort()].transpose(0, 1).to(trace.weights.dtype)
    check_scores(scores, "ITD")
    if at is None:
        scores = scores.squeeze(1)
    return scores[0] if metric is metrics[0] and len(scores) == 1 else scores


class _Sweep:
    """The reverse sweep over a run, from its latest stop down to ``start``.

    With checkpoints in a folder it keeps its own state there after each segment, and goes on from there.

    Attributes:
        cotangent: ``(stops * metrics, rows, d)``, of the state after step ``down_to``; those of the latest stop first.
        scores: ``(stops * metrics, N)``, in float64, so far.
        down_to: the step down to which it has come.
    """

    def __init__(self, trace: Trace, metrics: Sequence[Measurable], damping: float, start: int, stops: list[int]):
        self.trace, self.stops, self.down_to = trace, stops, stops[0]
        key = trace.game, trace.updates, damping
        self._linearise = trace.recorded.setdefault(key, Linearised(*key))
        gradients = gradients_of(metrics, trace, stops)
        self.metrics = len(gradients)
        rows = len(stops) * self.metrics
        if rows > 1:
            stacks(trace)
        self.cotangent = trace.weights.new_zeros(rows, *trace.state().moving.shape)
        self.cotangent[:, trace.updates.seen] = gradients.transpose(0, 1).reshape(rows, -1)
        self.scores = torch.zeros(rows, trace.size, dtype=torch.float64, device=trace.weights.device)
        self._folder = trace.history.folder
        sweep = digest(torch.tensor([start, *stops]), torch.tensor(float(damping), dtype=torch.float64), self.cotangent)
        self._name = f"sweep-{sweep}.pt"
        if self._folder is not None and (self._folder.path / self._name).exists():
            self._resume(self._folder)

    def through(self, begin: int, end: int, bar: tqdm) -> None:
        """The steps from ``end`` down to ``begin``, a segment of the run."""
        for inputs, passes in self._kept(begin, end) if self.trace.keep_graphs else self._replayed(begin, end):
            for some, pull_back in passes:
                self.cotangent[some], rows = pull_back(self.cotangent[some])
                inputs.add_to_rows(self.scores[some], -inputs.weights * rows)
            bar.update()
        if self._folder is not None:
            self._folder.write(self._name, {"down_to": begin, "cotangent": self.cotangent, "scores": self.scores})

    def finished(self) -> Float[Tensor, "stops metrics N"]:
        """The scores; the sweep's own state in the folder is no longer needed."""
        if self._folder is not None:
            self._folder.remove(self._name)
        return self.scores.view(len(self.stops), self.metrics, -1)

    def _running(self, t: int) -> int | slice:
        """Which of the cotangents are those of stops after step ``t``; a stack of one costs more than none."""
        active = sum(stop > t for stop in self.stops) * self.metrics
        return 0 if active == 1 else slice(active)

    def _parts(self, t: int) -> list[int | slice]:
        """Those of :meth:`_running`, a few at a time where more would not stay in the processor's cache."""
        running = self._running(t)
        if isinstance(running, int) or self.cotangent.is_cuda:
            return [running]
        most = max(_FEWEST_TOGETHER, _NUMBERS_TOGETHER // max(self.cotangent[0].numel(), 1))
        return [slice(k, min(k + most, running.stop)) for k in range(0, running.stop, most)]

    def _replayed(self, begin: int, end: int) -> Iterator[Passes]:
        """Each step linearised where the sweep needs it, at its remembered or replayed state."""
        for t in reversed(range(begin, end)):
            inputs = self.trace.inputs(t)
            yield inputs, self._passes(t, inputs)

    def _passes(self, t: int, inputs: Inputs) -> Iterator[tuple[int | slice, PullBack]]:
        """The pull-back of each part, with a pass forward of its own: of many cotangents it is a small share."""
        state = self.trace.state(t)
        for some in self._parts(t):
            yield some, self._linearise.pull_back(t, state, inputs, self.cotangent[some].shape)

    def _kept(self, begin: int, end: int) -> Iterator[Passes]:
        """All steps linearised in one go, each leading to the state of the next: the replay costs nothing extra."""
        state, passed = self.trace.state(begin), []
        for t in range(begin, end):
            inputs, running = self.trace.inputs(t), self._running(t)
            state, pull_back = self._linearise(t, state, inputs, self.cotangent[running].shape)
            passed.append((inputs, [(running, pull_back)]))
        self.trace.check_replay(end, state)
        del state
        while passed:
            yield passed.pop()

    def _resume(self, folder: Folder) -> None:
        try:
            left = folder.read(self._name)
        except DamagedFileError as error:
            warn(f"{error}: the sweep starts over")
            return
        self.cotangent.copy_(left["cotangent"])
        self.scores.copy_(left["scores"])
        self.down_to = int(left["down_to"])


def gradients_of(
    metrics: Sequence[Measurable], trace: Trace, stops: Sequence[int], seen: Tensor | None = None
) -> Float[Tensor, "metrics stops d"]:
    """Each metric's gradient at each stop, those of a vector one after another.

    Args:
        metrics: what is measured.
        trace: the run.
        stops: after how many steps.
        seen: where the metrics look then; by default where the run is.
    """
    states = [trace.state(stop) for stop in stops]
    if seen is None:
        seen = torch.stack([state.moving[trace.updates.seen] for state in states])
    held = [trace.updates.seen_held(state.held) for state in states]
    found = [metric_gradients(metric, trace.game, seen, held) for metric in metrics]
    return torch.cat([one.reshape(-1, *seen.shape) for one in found])
