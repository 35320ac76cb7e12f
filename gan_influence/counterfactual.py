"""The ground truth: retraining without rows, many removals as one batch of models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import psutil
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from gan_influence.checks import is_whole
from gan_influence.metrics.metric import Metric, metric_values
from gan_influence.trace import Trace
from gan_influence.training import DivergenceError, check_removal, states

__all__ = ["counterfactual"]

_SHARE_OF_MEMORY = 0.5


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
    rows = [check_removal(removed, len(trace.data), f"removals[{k}]") for k, removed in enumerate(removals)]
    start = trace.window(last)
    stops = [trace.steps] if at is None else trace.stops(at)

    size = chunk if chunk is not None else _models_that_fit(trace)
    steps = len(range(start, max(stops))) * -(-len(rows) // size)
    influence = trace.data.new_empty(len(stops), len(rows))
    with tqdm(total=steps, desc="retraining", unit="step", disable=not progress) as bar:
        for begin in range(0, len(rows), size):
            part = slice(begin, begin + size)
            influence[:, part] = _retrain_together(trace, metric, rows[part], begin, start, stops, bar)
    return influence[0] if at is None else influence


def _retrain_together(
    trace: Trace, metric: Metric, rows: list[list[int]], begin: int, start: int, stops: list[int], bar: tqdm
) -> Float[Tensor, "stops R"]:
    """Train the factual model and one without each set of rows side by side, so that all share their rounding."""
    weights = trace.weights.repeat(1 + len(rows), 1)
    for k, removed in enumerate(rows):
        weights[1 + k, removed] = 0
    state = trace.state(start).repeat(1 + len(rows), 1, 1)
    values = {start: metric_values(metric, trace.game, state[:, 0])} if start in stops else {}
    try:
        for step, reached in states(trace, state, weights, range(start, max(stops))):
            bar.update()
            if step in stops:
                values[step] = metric_values(metric, trace.game, reached[:, 0])
    except DivergenceError as error:
        if error.model:
            error.args = (f"retraining without removals[{begin + error.model - 1}]: {error.args[0]}",)
        raise
    return torch.stack([values[stop][1:] - values[stop][0] for stop in stops])


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
    state = trace.states[0]
    model = 2 * kept + (state.numel() * 4 + len(trace.data)) * state.element_size()
    if trace.data.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(trace.data.device)
    else:
        free = psutil.virtual_memory().available
    return max(int(_SHARE_OF_MEMORY * free / model) - 1, 1)  # the factual model rides along
