"""The ground truth: retraining without rows, many removals as one batch of models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from gan_influence import trees
from gan_influence.batch import Inputs
from gan_influence.checks import check, is_whole
from gan_influence.devices import is_out_of_memory as _is_out_of_memory
from gan_influence.divergence import DivergenceError
from gan_influence.graphs import nodes
from gan_influence.identity import of_game
from gan_influence.metrics.metric import Measurable, as_metrics, check_metric, metric_value, metric_values
from gan_influence.progress import shown
from gan_influence.stacking import stacks
from gan_influence.state import State
from gan_influence.step import states
from gan_influence.surroundings import undisturbed, warn
from gan_influence.trace import Trace
from gan_influence.training import check_removal

__all__ = ["counterfactual", "counterfactual_and_rounding", "counterfactuals"]

_SHARE_OF_MEMORY = 0.5
_OVERHEAD = 8  # what a step costs besides its models, in models
_MORE_PARTS = 8
_LARGE = 2**24  # bytes that a step keeps, above which models share neither a processor's cache nor any overhead
_IN_CACHE = 2**25  # bytes of models that are trained together on a CPU
_COPIES = 4  # of a model's state that a step makes: before and after it, the gradient, what the optimiser computes


def counterfactual(
    trace: Trace,
    metric: Measurable | Sequence[Measurable],
    removals: Iterable[Iterable[int]],
    last: int | None = None,
    *,
    at: Sequence[int] | None = None,
    chunk: int | None = None,
    progress: bool = False,
) -> Float[Tensor, "*metrics *stops R"]:
    """``metric(after removal) - metric(before)`` for each removal, by retraining (TNNLS eq. 7, Definition 2).

    A retraining starts where its first removed row was used, from the factual state: before it nothing differs. Models
    are trained as one batch; on a CPU large ones, which gain nothing by that, one after another.

    Args:
        trace: the factual run, whose start, batches and optimisers every retraining shares.
        metric: what is measured; several are measured off one retraining.
        removals: the sets of rows to leave out, one set a retraining.
        last: retrain only that many final steps; by default all.
        at: stopping times: measure every run after each of these steps, off one retraining.
        chunk: how many models to train at once, besides the factual one; by default as many as half of the free memory
            holds, and on a CPU as many whose states and gradients are 32 MiB, which its cache holds. Halved, with a
            warning, where they do not fit after all.
        progress: show a progress bar.

    Returns:
        ``(R,)``, or ``(len(at), R)``; of several metrics with a leading dimension ``len(metric)``.

    Raises:
        IndexError, TypeError, ValueError: a removed row is out of range, no integer or named twice; ``last`` or ``at``
            reach outside the trace.
        DivergenceError: a retraining diverged; the message names the removal.
        MemoryError: not even one model at a time fits.
    """
    return counterfactuals([trace], [metric], [removals], last, at=at, chunk=chunk, progress=progress)[0]


@undisturbed
def counterfactuals(
    traces: Sequence[Trace],
    metrics: Sequence[Measurable | Sequence[Measurable]],
    removals: Sequence[Iterable[Iterable[int]]],
    last: int | None = None,
    *,
    at: Sequence[int] | None = None,
    chunk: int | None = None,
    progress: bool = False,
) -> Float[Tensor, "runs *metrics *stops R"]:
    """:func:`counterfactual` of several runs at once, as one batch of models: seeds of one experiment.

    Args:
        traces: runs of the same game, from different starts, on different rows or latents of the same shapes.
        metrics: one a run, or as many for each.
        removals: as many sets of rows for each run.
        last, at, chunk, progress: as for :func:`counterfactual`; a chunk counts the models of one run.

    Returns:
        ``(runs, R)``, or ``(runs, len(at), R)``; of several metrics a run with a dimension of them after the first.

    Raises:
        ValueError: the runs differ in their steps, in the number of removals or metrics or in what they are made of.
    """
    if at is not None and last is not None:
        raise ValueError("give either last or at, not both")
    check(chunk is None or (is_whole(chunk) and chunk >= 1), "chunk", "a number of models >= 1", chunk)
    runs = _Runs(traces)
    rows = [_checked(of_run, trace) for of_run, trace in zip(removals, traces, strict=True)]
    if len({len(of_run) for of_run in rows}) > 1:
        raise ValueError(f"each run must have as many removals, got {[len(of_run) for of_run in rows]}")
    start = traces[0].window(last)
    stops = [traces[0].steps] if at is None else traces[0].stops(at)
    several = [as_metrics(own) for own in metrics]
    if len(several) != len(traces) or len({len(own) for own in several}) > 1:
        raise ValueError(f"each of {len(traces)} runs must have as many metrics, got {[len(own) for own in several]}")
    together = [runs] if len(traces) == 1 or stacks(traces[0]) else [_Runs([trace]) for trace in traces]
    found: list[Tensor] = []
    for part in together:
        own = slice(len(found), len(found) + len(part.traces))
        found.append(_differences(part, several[own], rows[own], [], start, stops, chunk, progress))
    influence = torch.cat(found).to(traces[0].weights.dtype)
    _check_finite(influence, several, stops)
    for metric in several[0]:
        check_metric(metric, traces[0].game, traces[0].seen(), traces[0].held())
    if at is None:
        influence = influence[:, :, 0]
    is_one = not any(isinstance(own, list | tuple) for own in metrics) and influence.shape[1] == 1
    return influence[:, 0] if is_one else influence


@undisturbed
def counterfactual_and_rounding(
    trace: Trace,
    metric: Measurable,
    removals: Iterable[Iterable[int]],
    signs: Float[Tensor, "K d"],
    last: int | None = None,
    *,
    progress: bool = False,
) -> tuple[Float[Tensor, " R"], Float[Tensor, " K"]]:
    """:func:`counterfactual`, and what rounding alone does to the metric, in the same batch of models.

    Replica k is the factual run once more, from a start whose parameters are half a unit in the last place off::

        theta + signs[k] * (eps / 2) * theta

    rounded, so that most move by one unit. From there on every operation of its steps rounds another way.

    Args:
        trace, metric, removals, last, progress: as for :func:`counterfactual`.
        signs: of each replica's parameters, each +1 or -1.

    Returns:
        ``metric(after removal) - metric(before)`` and ``metric(replica) - metric(factual)``, float64.

    Raises:
        DivergenceError, MemoryError, IndexError, TypeError, ValueError: as :func:`counterfactual` does.
    """
    rows, signs = _checked(removals, trace), signs.to(trace.weights)
    runs, start, stops = _Runs([trace]), trace.window(last), [trace.steps]
    differences = _differences(runs, [[metric]], [rows], signs, start, stops, None, progress)[0, 0, 0]
    return differences[: len(rows)], differences[len(rows) :]


def _check_finite(
    influence: Float[Tensor, "runs metrics stops R"], metrics: list[list[Measurable]], stops: list[int]
) -> None:
    bad = (~influence.isfinite()).nonzero().tolist()
    if bad:
        run, row, stop, removal = bad[0]
        name = type(metrics[run][row]).__name__ if influence.shape[1] == len(metrics[run]) else f"number {row}"
        raise ValueError(
            f"metric {name} is NaN or infinite at step {stops[stop]}, without "
            f"removals[{removal}] or with all rows: look at logarithms, roots and divisions in it"
        )


def _differences(
    runs: _Runs,
    metrics: list[list[Measurable]],
    rows: list[list[list[int]]],
    signs: Iterable[Float[Tensor, " d"]],
    start: int,
    stops: list[int],
    chunk: int | None,
    progress: bool,
) -> Float[Tensor, "runs metrics stops R+K"]:
    """``metric(retraining) - metric(factual)``, float64: first without each set of rows, then of each replica."""
    traces, stop = runs.traces, max(stops)
    replicas = [_Model([[] for _ in traces], of_replica) for of_replica in signs]
    models = [_Model(list(without)) for without in zip(*rows, strict=True)] + replicas
    firsts = [_first_differences(trace, of_run, start, stop) for trace, of_run in zip(traces, rows, strict=True)]
    begins = [min(of_runs) for of_runs in zip(*firsts, strict=True)] + [start] * len(replicas)

    bytes_kept = _kept_by_a_step(traces[0])
    large = chunk is None and traces[0].weights.device.type == "cpu" and bytes_kept > _LARGE
    alone = len(traces) == 1 and (large or not stacks(traces[0]))
    size = chunk if chunk is not None else max(_models_at_once(traces[0], bytes_kept) // len(traces), 1)
    factual = {stop: _measured(traces[0], metrics[0], traces[0].state(stop)) for stop in stops} if alone else {}
    found: dict[int, Tensor] = {}  # by model, (runs, metrics, stops)

    def retrain(part: list[int], bar: tqdm) -> None:
        together, begin = [models[k] for k in part], begins[part[0]]
        try:
            if alone:
                found[part[0]] = _retrain_alone(
                    traces[0], metrics[0], factual, together[0], begin, stops, bar
                ).unsqueeze(0)
            else:
                of_part = _retrain_together(runs, metrics, together, begin, stops, bar)
                found.update(zip(part, of_part.unbind(-1), strict=True))
        except DivergenceError as error:
            _name_the_model(error, part, rows)
            raise

    _in_parts(retrain, begins, stop, 1 if alone else size, progress)
    differences = traces[0].weights.new_zeros(len(traces), len(metrics[0]), len(stops), 0, dtype=torch.float64)
    if models:
        differences = torch.stack([found[k] for k in range(len(models))], dim=-1)
    for of_run, first in zip(differences, firsts, strict=True):  # a removal makes no difference before it is used
        unused = torch.tensor(stops).unsqueeze(1) <= torch.tensor(first)
        of_run[..., : len(first)].masked_fill_(unused.to(of_run.device), 0)
    return differences


def _in_parts(
    retrain: Callable[[list[int], tqdm], None], begins: list[int], stop: int, size: int, progress: bool
) -> None:
    """Retrain the models in parts of at most ``size``, and in smaller ones where those do not fit in memory."""
    parts = _parts(range(len(begins)), begins, stop, size)
    with tqdm(total=_steps(parts, begins, stop), desc="retraining", unit="step", disable=not shown(progress)) as bar:
        while parts:
            part, done = parts[0], bar.n
            try:
                retrain(part, bar)
                del parts[0]
                continue
            except (MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error):
                    raise
                if len(part) == 1:
                    raise MemoryError(
                        f"not even one model at a time can be retrained in memory ({error}): free some, train with "
                        "smaller batches or measure with fewer rows and latents"
                    ) from error
            # Only here, after the handler, are the failed attempt's tensors gone.
            size = -(-len(part) // 2)
            warn(f"{len(part)} models at once do not fit in memory: going on with {size}")
            parts = _parts([k for waiting in parts for k in waiting], begins, stop, size)
            bar.update(done - bar.n)
            bar.total = done + _steps(parts, begins, stop)
            bar.refresh()


class _Model(NamedTuple):
    """What sets a retraining apart from the factual run: the rows it is without, by run; its start's rounding."""

    without: list[list[int]]
    signs: Float[Tensor, " d"] | None = None


class _Runs:
    """Several runs of one game, stepped together. A single one is stepped as it is."""

    def __init__(self, traces: Sequence[Trace]):
        if not traces:
            raise ValueError("there must be at least one run")
        self.traces = traces
        self.game, self.updates, self.recorded = traces[0].game, traces[0].updates, traces[0].recorded
        made_of = [_shared(trace) for trace in traces] if len(traces) > 1 else []
        for k, of_trace in enumerate(made_of):
            different = [name for name, what in of_trace.items() if what != made_of[0][name]]
            if different:
                raise ValueError(f"traces[{k}] differs from traces[0] in {', '.join(different)}: retrain them apart")

    def inputs(self, t: int, weights: Float[Tensor, "*runs models N"]) -> Inputs:
        if len(self.traces) == 1:
            return self.traces[0].inputs(t, weights)
        return Inputs.of_runs([trace.inputs(t) for trace in self.traces], weights)

    def stacked(self, of_runs: list[Any]) -> Any:
        return of_runs[0] if len(of_runs) == 1 else trees.stack(of_runs)

    def apart(self, together: Any) -> list[Any]:
        return [together] if len(self.traces) == 1 else [trees.take(together, k) for k in range(len(self.traces))]


def _shared(trace: Trace) -> dict[str, object]:
    """What runs must have in common to be retrained as one batch of models."""
    steps = range(trace.first, trace.steps)
    return {**of_game(trace, steps), "number of rows": trace.size, "steps": steps, "data type": trace.weights.dtype}


def _checked(removals: Iterable[Iterable[int]], trace: Trace) -> list[list[int]]:
    if isinstance(removals, str) or not isinstance(removals, Iterable):
        raise TypeError(f"removals must be a list of lists of row indices, such as [[3], [17, 20]], got {removals!r}")
    if isinstance(removals, Tensor | np.ndarray) and removals.ndim != 2:
        raise TypeError(
            f"removals must be a list of lists of row indices, got an array of shape {tuple(removals.shape)}"
        )
    return [check_removal(removed, trace.size, f"removals[{k}]") for k, removed in enumerate(removals)]


def _first_differences(trace: Trace, rows: list[list[int]], start: int, stop: int) -> list[int]:
    """For each removal the first step whose batch holds one of its rows, of a weight; ``stop`` where there is none."""
    weighted = trace.weights.tolist()
    held = [{row for row in removed if weighted[row]} for removed in rows]
    begins, waiting = [stop] * len(rows), {k: removed for k, removed in enumerate(held) if removed}
    for t in range(start, stop):
        if not waiting:
            break
        indices = trace.batch(t).indices
        batch = None if indices is None else set(indices.tolist())
        for k in [k for k, removed in waiting.items() if batch is None or not removed.isdisjoint(batch)]:
            begins[k] = t
            del waiting[k]
    return begins


def _parts(models: Iterable[int], begins: list[int], stop: int, size: int) -> list[list[int]]:
    """The models in parts of at most ``size``, earliest first, which together take the fewest steps of a model.

    Each part starts with its earliest model, trains the factual one along and has a step's overhead, which counts as
    a few models.
    """
    order = sorted(models, key=begins.__getitem__)

    def split(count: int) -> list[list[int]]:
        bounds = [round(k * len(order) / count) for k in range(count + 1)]
        return [order[a:b] for a, b in pairwise(bounds) if b > a]

    def cost(parts: list[list[int]]) -> int:
        return sum((len(part) + 1 + _OVERHEAD) * (stop - begins[part[0]]) for part in parts)

    fewest = -(-len(order) // size)
    return min((split(count) for count in range(max(fewest, 1), fewest + _MORE_PARTS + 1)), key=cost)


def _steps(parts: list[list[int]], begins: list[int], stop: int) -> int:
    return sum(stop - begins[part[0]] for part in parts)


def _measured(trace: Trace, metrics: list[Measurable], state: State) -> Float[Tensor, " metrics"]:
    theta, held = state.moving[trace.updates.seen], trace.updates.seen_held(state.held)
    return torch.cat([metric_value(metric, trace.game, theta, held).reshape(-1) for metric in metrics])


def _retrain_alone(
    trace: Trace,
    metrics: list[Measurable],
    factual: dict[int, Tensor],
    model: _Model,
    start: int,
    stops: list[int],
    bar: tqdm,
) -> Float[Tensor, "metrics stops"]:
    """One retraining, step for step as the factual run was trained; ``factual``: its metrics at the stops."""
    weights, state = trace.weights.clone(), trace.state(start)
    weights[model.without[0]] = 0
    _perturb(state.moving[0], model)
    differences = {stop: torch.zeros_like(own, dtype=torch.float64) for stop, own in factual.items()}
    for step, reached in states(trace, state, weights, range(start, max(stops))):
        bar.update()
        if step in factual:
            differences[step] = (_measured(trace, metrics, reached) - factual[step]).double()
    return torch.stack([differences[stop] for stop in stops], dim=1)


def _perturb(theta: Float[Tensor, "*runs d"], model: _Model) -> None:
    if model.signs is not None:
        theta += model.signs * (torch.finfo(theta.dtype).eps / 2 * theta)


def _retrain_together(
    runs: _Runs, metrics: list[list[Measurable]], together: list[_Model], start: int, stops: list[int], bar: tqdm
) -> Float[Tensor, "runs metrics stops part"]:
    """Train each factual model and these retrainings of it side by side, so that all share their rounding."""
    models = 1 + len(together)
    weights = runs.stacked([trace.weights.repeat(models, 1) for trace in runs.traces])
    state = runs.stacked(
        [trees.mapped(lambda part: part.repeat(models, *[1] * part.ndim), trace.state(start)) for trace in runs.traces]
    )
    for k, model in enumerate(together, start=1):
        for own, removed in zip(runs.apart(weights), model.without, strict=True):
            own[k, removed] = 0
        _perturb(state.moving[..., k, 0, :], model)

    def differences_at(state: State) -> Float[Tensor, "runs metrics part"]:
        of_runs = zip(metrics, runs.apart(state), strict=True)
        return torch.stack([_differences_of(runs, own, of_run) for own, of_run in of_runs])

    differences: dict[int, Tensor] = {}
    for step, reached in states(runs, state, weights, range(start, max(stops))):
        bar.update()
        if step in stops:
            differences[step] = differences_at(reached)
    unchanged = torch.zeros_like(next(iter(differences.values())) if differences else differences_at(state))
    return torch.stack([differences.get(stop, unchanged) for stop in stops], dim=2)


def _differences_of(runs: _Runs, metrics: list[Measurable], state: State) -> Float[Tensor, "metrics part"]:
    """Of each metric between a run's models and the first of them, in double: it may be wider than the state."""
    seen, held = state.moving[..., runs.updates.seen, :], runs.updates.seen_held(state.held)
    values = [metric_values(metric, runs.game, seen, held).reshape(len(seen), -1) for metric in metrics]
    return torch.cat([(of_one[1:] - of_one[0]).double().T for of_one in values])


def _name_the_model(error: DivergenceError, part: list[int], rows: list[list[list[int]]]) -> None:
    *run, model = error.model or (1,)  # one that was retrained alone has no number
    if model:  # 0 is the factual run
        where, k = f" in run {run[0]}" if run else "", part[model - 1]
        of_run = rows[run[0] if run else 0]
        which = f"replica {k - len(of_run)} of the factual run"
        if k < len(of_run):
            more = ", ..." if len(of_run[k]) > 8 else ""
            which = f"retraining without removals[{k}] (rows {', '.join(map(str, of_run[k][:8]))}{more})"
        error.args = (f"{which}{where}: {error.args[0]}",)


def _kept_by_a_step(trace: Trace) -> int:
    """Bytes that one model's step keeps for its backward pass. Hooks would tell, but ``torch.func.grad`` has none."""
    state = trace.state(trace.first)
    costs, _ = trace.game.losses(trace.game.leaves(state.moving[0]), trace.inputs(trace.first), state.held)
    kept = 0
    for node in nodes(*costs.values()):
        saved = [getattr(node, name) for name in dir(node) if name.startswith("_saved_") or name == "saved_tensors"]
        kept += sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(saved) if isinstance(leaf, Tensor))
    return kept


def _models_at_once(trace: Trace, kept: int) -> int:
    """How many models' steps, each keeping that many bytes, fit into a share of the free memory, and a CPU's cache."""
    state = trace.state(trace.first).moving
    copies = _COPIES * state.numel() * state.element_size()
    model = 2 * kept + copies + trace.size * state.element_size()
    if trace.weights.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(trace.weights.device)
        fit = int(_SHARE_OF_MEMORY * free / model)
    else:
        fit = min(int(_SHARE_OF_MEMORY * psutil.virtual_memory().available / model), _IN_CACHE // max(copies, 1))
    return max(fit - 1, 1)  # the factual model rides along
