"""The ground truth: retraining without rows, many removals as one batch of models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import psutil
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from gan_influence.checks import is_whole
from gan_influence.metrics.metric import Metric, metric_values
from gan_influence.steps import DivergenceError, states
from gan_influence.trace import Trace
from gan_influence.training import check_removal

__all__ = ["counterfactual"]

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
    if at is not None and last is not None:
        raise ValueError("give either last or at, not both")
    if chunk is not None and (not is_whole(chunk) or chunk < 1):
        raise ValueError(f"chunk must be a number of models >= 1, got {chunk!r}")
    if isinstance(removals, str) or not isinstance(removals, Iterable):
        raise TypeError(f"removals must be a list of lists of row indices, such as [[3], [17, 20]], got {removals!r}")
    if isinstance(removals, Tensor | np.ndarray) and removals.ndim != 2:
        raise TypeError(
            f"removals must be a list of lists of row indices, got an array of shape {tuple(removals.shape)}"
        )
    rows = [check_removal(removed, trace.size, f"removals[{k}]") for k, removed in enumerate(removals)]
    start = trace.window(last)
    stops = [trace.steps] if at is None else trace.stops(at)

    begins = _first_differences(trace, rows, start, max(stops))
    influence = trace.weights.new_zeros(len(stops), len(rows))
    parts = _parts(begins, max(stops), chunk if chunk is not None else _models_that_fit(trace))
    steps = sum(max(stops) - begins[part[0]] for part in parts)
    with tqdm(total=steps, desc="retraining", unit="step", disable=not progress) as bar:
        for part in parts:
            influence[:, part] = _retrain_together(trace, metric, rows, part, begins[part[0]], stops, bar)
    return influence[0] if at is None else influence


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
    trace: Trace, metric: Metric, rows: list[list[int]], part: list[int], start: int, stops: list[int], bar: tqdm
) -> Float[Tensor, "stops part"]:
    """Train the factual model and one without each set of rows side by side, so that all share their rounding."""
    weights = trace.weights.repeat(1 + len(part), 1)
    for model, k in enumerate(part, start=1):
        weights[model, rows[k]] = 0
    state = trace.state(start).repeat(1 + len(part), 1, 1)
    influence = weights.new_zeros(len(stops), len(part))
    try:
        for step, reached in states(trace, state, weights, range(start, max(stops))):
            bar.update()
            if step in stops:
                values = metric_values(metric, trace.game, reached[:, trace.updates.seen])
                influence[[k for k, stop in enumerate(stops) if stop == step]] = values[1:] - values[0]
    except DivergenceError as error:
        if error.model:
            error.args = (f"retraining without removals[{part[error.model - 1]}]: {error.args[0]}",)
        raise
    return influence


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
