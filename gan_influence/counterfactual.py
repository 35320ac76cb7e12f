"""The ground truth: retraining without rows, many removals as one batch of models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
import psutil
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from gan_influence.checkpoint import digest
from gan_influence.checks import is_whole
from gan_influence.metrics.metric import Metric, metric_values
from gan_influence.steps import DivergenceError, states
from gan_influence.trace import StepInputs, Trace
from gan_influence.training import check_removal

__all__ = ["counterfactual", "counterfactuals"]

_SHARE_OF_MEMORY = 0.5
_OVERHEAD = 8  # what a step costs besides its models, in models
_MORE_PARTS = 8


def counterfactual(
    trace: Trace,
    metric: Metric,
    removals: Iterable[Iterable[int]],
    last: int | None = None,
    *,
    at: Sequence[int] | None = None,
    chunk: int | None = None,
    progress: bool = False,
) -> Float[Tensor, "*stops R"]:
    """``metric(after removal) - metric(before)`` for each removal, by retraining (TNNLS eq. 7, Definition 2).

    A retraining starts where its first removed row was used, from the factual state: before it nothing differs.

    Args:
        trace: the factual run, whose start, batches and optimisers every retraining shares.
        metric: what is measured.
        removals: the sets of rows to leave out, one set a retraining.
        last: retrain only that many final steps; by default all.
        at: stopping times: measure every run after each of these steps, off one retraining.
        chunk: how many models to train at once; by default as many as half of the free memory holds.
        progress: show a progress bar.

    Returns:
        ``(R,)``, or ``(len(at), R)``.

    Raises:
        IndexError, TypeError, ValueError: a removed row is out of range, no integer or named twice; ``last`` or ``at``
            reach outside the trace.
        DivergenceError: a retraining diverged; the message names the removal.
    """
    return counterfactuals([trace], [metric], [removals], last, at=at, chunk=chunk, progress=progress)[0]


def counterfactuals(
    traces: Sequence[Trace],
    metrics: Sequence[Metric],
    removals: Sequence[Iterable[Iterable[int]]],
    last: int | None = None,
    *,
    at: Sequence[int] | None = None,
    chunk: int | None = None,
    progress: bool = False,
) -> Float[Tensor, "runs *stops R"]:
    """:func:`counterfactual` of several runs at once, as one batch of models: seeds of one experiment.

    Args:
        traces: runs of the same game, from different starts, on different rows or latents of the same shapes.
        metrics: one a run.
        removals: as many sets of rows for each run.
        last, at, chunk, progress: as for :func:`counterfactual`; a chunk counts the models of one run.

    Returns:
        ``(runs, R)``, or ``(runs, len(at), R)``.

    Raises:
        ValueError: the runs differ in their steps, in the number of removals or in what they are made of.
    """
    if at is not None and last is not None:
        raise ValueError("give either last or at, not both")
    if chunk is not None and (not is_whole(chunk) or chunk < 1):
        raise ValueError(f"chunk must be a number of models >= 1, got {chunk!r}")
    runs = _Runs(traces)
    rows = [_checked(of_run, trace) for of_run, trace in zip(removals, traces, strict=True)]
    if len({len(of_run) for of_run in rows}) > 1:
        raise ValueError(f"each run must have as many removals, got {[len(of_run) for of_run in rows]}")
    start = traces[0].window(last)
    stops = [traces[0].steps] if at is None else traces[0].stops(at)

    begins = [
        min(of_runs)
        for of_runs in zip(
            *(_first_differences(*pair, start, max(stops)) for pair in zip(traces, rows, strict=True)), strict=True
        )
    ]
    size = chunk if chunk is not None else max(_models_that_fit(traces[0]) // len(traces), 1)
    parts = _parts(begins, max(stops), size)
    influence = traces[0].weights.new_zeros(len(traces), len(stops), len(begins))
    steps = sum(max(stops) - begins[part[0]] for part in parts)
    with tqdm(total=steps, desc="retraining", unit="step", disable=not progress) as bar:
        for part in parts:
            without = [[of_run[k] for k in part] for of_run in rows]
            try:
                influence[..., part] = _retrain_together(runs, metrics, without, begins[part[0]], stops, bar)
            except DivergenceError as error:
                _name_the_removal(error, part)
                raise
    return influence[:, 0] if at is None else influence


class _Runs:
    """Several runs of one game, stepped together. A single one is stepped as it is."""

    def __init__(self, traces: Sequence[Trace]):
        if not traces:
            raise ValueError("there must be at least one run")
        self.traces = traces
        self.game, self.updates = traces[0].game, traces[0].updates
        for k, trace in enumerate(traces[1:], start=1):
            different = [name for name, what in _MADE_OF.items() if what(trace) != what(traces[0])]
            if different:
                raise ValueError(f"traces[{k}] differs from traces[0] in {', '.join(different)}: retrain them apart")

    def inputs(self, t: int) -> StepInputs:
        inputs = [trace.inputs(t) for trace in self.traces]
        return inputs[0] if len(inputs) == 1 else StepInputs.of_runs(inputs)

    def stacked(self, tensors: list[Tensor]) -> Tensor:
        return tensors[0] if len(tensors) == 1 else torch.stack(tensors)

    def apart(self, tensor: Tensor) -> list[Tensor]:
        return [tensor] if len(self.traces) == 1 else list(tensor)


_MADE_OF: dict[str, Callable[[Trace], object]] = {
    "its modules": lambda trace: [str(player.module) for player in trace.game.players],
    "its modules' constants": lambda trace: digest(*trace.game.constants()),
    "its loss": lambda trace: trace.game.loss,
    "l2": lambda trace: trace.game.l2,
    "its optimisers": lambda trace: [repr(one) for one in trace.updates.pair],
    "the order of updates": lambda trace: trace.updates.order,
    "ema_decay": lambda trace: trace.updates.decay,
    "its number of rows": lambda trace: trace.size,
    "its steps": lambda trace: (trace.first, trace.steps),
}


def _checked(removals: Iterable[Iterable[int]], trace: Trace) -> list[list[int]]:
    if isinstance(removals, str) or not isinstance(removals, Iterable):
        raise TypeError(f"removals must be a list of lists of row indices, such as [[3], [17, 20]], got {removals!r}")
    if isinstance(removals, Tensor | np.ndarray) and removals.ndim != 2:
        raise TypeError(
            f"removals must be a list of lists of row indices, got an array of shape {tuple(removals.shape)}"
        )
    return [check_removal(removed, trace.size, f"removals[{k}]") for k, removed in enumerate(removals)]


def _first_differences(trace: Trace, rows: list[list[int]], start: int, stop: int) -> list[int]:
    """For each removal the first step whose batch holds one of its rows; ``stop`` where there is none."""
    begins, waiting = [stop] * len(rows), {k: set(removed) for k, removed in enumerate(rows) if removed}
    for t in range(start, stop):
        if not waiting:
            break
        indices = trace.schedule(t).indices
        batch = None if indices is None else set(indices.tolist())
        for k in [k for k, removed in waiting.items() if batch is None or not removed.isdisjoint(batch)]:
            begins[k] = t
            del waiting[k]
    return begins


def _parts(begins: list[int], stop: int, size: int) -> list[list[int]]:
    """The removals in parts of at most ``size``, earliest first, which together take the fewest steps of a model.

    Each part starts with its earliest removal, trains the factual model along and has a step's overhead, which
    counts as a few models.
    """
    order = sorted(range(len(begins)), key=begins.__getitem__)

    def split(count: int) -> list[list[int]]:
        bounds = [round(k * len(order) / count) for k in range(count + 1)]
        return [order[a:b] for a, b in pairwise(bounds) if b > a]

    def cost(parts: list[list[int]]) -> int:
        return sum((len(part) + 1 + _OVERHEAD) * (stop - begins[part[0]]) for part in parts)

    fewest = -(-len(order) // size)
    return min((split(count) for count in range(max(fewest, 1), fewest + _MORE_PARTS + 1)), key=cost)


def _retrain_together(
    runs: _Runs, metrics: Sequence[Metric], rows: list[list[list[int]]], start: int, stops: list[int], bar: tqdm
) -> Float[Tensor, "runs stops part"]:
    """Train each factual model and one without each set of rows side by side, so that all share their rounding."""
    models = 1 + len(rows[0])
    weights = runs.stacked([trace.weights.repeat(models, 1) for trace in runs.traces])
    for own, of_run in zip(runs.apart(weights), rows, strict=True):
        for model, removed in enumerate(of_run, start=1):
            own[model, removed] = 0
    state = runs.stacked([trace.state(start).repeat(models, 1, 1) for trace in runs.traces])
    influence = weights.new_zeros(len(rows), len(stops), models - 1)
    for step, reached in states(runs, state, weights, range(start, max(stops))):
        bar.update()
        if step in stops:
            at = [k for k, stop in enumerate(stops) if stop == step]
            for run, seen in enumerate(runs.apart(reached[..., runs.updates.seen, :])):
                values = metric_values(metrics[run], runs.game, seen)
                influence[run, at] = values[1:] - values[0]
    return influence


def _name_the_removal(error: DivergenceError, part: list[int]) -> None:
    *run, model = error.model
    if model:  # 0 is the factual run
        where = f" in run {run[0]}" if run else ""
        error.args = (f"retraining without removals[{part[model - 1]}]{where}: {error.args[0]}",)


def _models_that_fit(trace: Trace) -> int:
    """How many models' steps fit into a share of the free memory, judged by what one step keeps for its backward."""
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    inputs = trace.inputs(trace.first)
    phi, psi = trace.game.leaves(trace.theta(trace.first))
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        trace.game.losses(phi, psi, inputs.rows, inputs.latents, inputs.of_batch(trace.weights))
    state = trace.state(trace.first)
    model = 2 * kept + (state.numel() * 4 + trace.size) * state.element_size()
    if trace.weights.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(trace.weights.device)
    else:
        free = psutil.virtual_memory().available
    return max(int(_SHARE_OF_MEMORY * free / model) - 1, 1)  # the factual model rides along
