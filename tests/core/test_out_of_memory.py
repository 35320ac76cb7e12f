"""Retraining where fewer models fit in memory than were thought to."""

import sys
import weakref

import pytest
import torch
from support.games import lqgan, minibatch_mlp, mlp
from torch import nn
from tqdm import tqdm

import gan_influence as gi
from gan_influence import step
from gan_influence.counterfactual import _is_out_of_memory
from gan_influence.losses import RowLoss
from gan_influence.validation import validate

ERRORS = {  # made anew each time: an error that is kept keeps the tensors of its frames
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    "cpu": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate"),
    "cublas": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "python": MemoryError,
}
REMOVALS = [[row] for row in range(12)]


class Memory:
    """Holds ``models`` beside the factual one: a step of more fails, if ``late`` others have been taken.

    Attributes:
        steps: the number of models of each step tried.
    """

    def __init__(self, monkeypatch, models, error=ERRORS["cuda"], late=0):
        self.models, self.error, self.late = models, error, late
        self.steps, self._held, self._step = [], [], step.step
        monkeypatch.setattr(step, "step", self.step)

    def step(self, game, updates, phases, state, batch):
        assert all(reference() is None for reference in self._held), "a failed attempt's tensors are still there"
        models = state.moving.shape[-3] - 1
        self.steps.append(models)
        if models > self.models and len(self.steps) > self.late:
            self._held = [weakref.ref(state.moving), weakref.ref(batch.weights)]
            raise self.error()
        return self._step(game, updates, phases, state, batch)


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("late", [0, 3])
def test_the_number_of_models_is_halved_until_they_fit(monkeypatch, error, late):
    problem = mlp()
    trace, metric = problem.train(6), problem.metric()
    whole = gi.counterfactual(trace, metric, REMOVALS)
    memory = Memory(monkeypatch, 4, error, late)
    with pytest.warns(RuntimeWarning, match="do not fit in memory") as said:
        truth = gi.counterfactual(trace, metric, REMOVALS)
    torch.testing.assert_close(truth, whole, rtol=0, atol=1e-14)
    assert [str(warning.message) for warning in said] == [
        "12 models at once do not fit in memory: going on with 6",
        "6 models at once do not fit in memory: going on with 3",
    ]
    assert said[0].filename == __file__
    assert memory.steps == [12] * (1 + late) + [6] + [3] * 4 * 6


def test_what_was_done_before_is_kept(monkeypatch):
    problem = mlp()
    trace, metric = problem.train(6), problem.metric()
    whole = gi.counterfactual(trace, metric, REMOVALS, at=[6, 2, 4])
    memory = Memory(monkeypatch, 4, late=8)
    with pytest.warns(RuntimeWarning, match="^6 models at once do not fit in memory: going on with 3$"):
        truth = gi.counterfactual(trace, metric, REMOVALS, at=[6, 2, 4], chunk=6)
    torch.testing.assert_close(truth, whole, rtol=0, atol=1e-14)
    assert memory.steps == [6] * 6 + [6] * 3 + [3] * 2 * 6


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 11])
def test_any_limit_gives_the_same_influences(monkeypatch, limit):
    problem = minibatch_mlp()
    trace, metric = problem.train(8), problem.metric()
    whole = gi.counterfactual(trace, metric, REMOVALS)
    Memory(monkeypatch, limit)
    with pytest.warns(RuntimeWarning, match="do not fit"):
        truth = gi.counterfactual(trace, metric, REMOVALS)
    torch.testing.assert_close(truth, whole, rtol=0, atol=1e-14)


def test_runs_together_are_halved_together(monkeypatch):
    problem = mlp()
    traces = [problem.train(5), problem.but(data=problem.data + 0.1).train(5)]
    given = traces, [problem.metric()] * 2, [REMOVALS[:6], REMOVALS[3:9]]
    whole = gi.counterfactuals(*given)
    memory = Memory(monkeypatch, 3)
    with pytest.warns(RuntimeWarning, match="^6 models at once do not fit in memory: going on with 3$"):
        truth = gi.counterfactuals(*given)
    torch.testing.assert_close(truth, whole, rtol=0, atol=1e-14)
    assert memory.steps == [6] + [3] * 2 * 5


def test_not_even_one_model_is_said_so(monkeypatch):
    trace = lqgan().train(4)
    Memory(monkeypatch, 0)
    message = (
        r"not even one model at a time .*\(CUDA out of memory. Tried to allocate 20.00 GiB.\): free some, .*smaller"
    )
    with pytest.warns(RuntimeWarning, match="2 models") as said, pytest.raises(MemoryError, match=message):
        gi.counterfactual(trace, lqgan().metric(), REMOVALS[:2])
    assert len(said) == 1


@pytest.mark.parametrize(
    "error", [lambda: RuntimeError("shapes cannot be multiplied"), lambda: ValueError("out of memory")]
)
def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch, error):
    trace = lqgan().train(4)
    memory = Memory(monkeypatch, 0, error)
    with pytest.raises(type(error()), match=str(error())):
        gi.counterfactual(trace, lqgan().metric(), REMOVALS[:4])
    assert memory.steps == [4]


def test_a_metric_that_needs_the_memory_is_given_fewer_models(monkeypatch):
    problem = mlp()
    trace, metric, failed = problem.train(5), problem.metric(), []

    class Hungry:
        def value(self, players):
            if not failed:
                failed.append(True)
                raise MemoryError("of the metric")
            return metric.value(players)

    with pytest.warns(RuntimeWarning, match="12 models"):
        truth = gi.counterfactual(trace, Hungry(), REMOVALS)
    torch.testing.assert_close(truth, gi.counterfactual(trace, metric, REMOVALS), rtol=0, atol=1e-14)


class Slope(nn.Module):
    """``D(x) = slope x``."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def forward(self, rows):
        return self.slope * rows


def test_a_removal_that_diverges_keeps_its_name(monkeypatch):
    # real(a) = a^3 pushes the slope up for the row -1 and down for 1: without the latter it explodes.
    cubic = RowLoss(real=lambda a: a**3, fake=lambda a: 0 * a, generator=lambda a: a)
    rows = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    problem = lqgan(discriminator=Slope(), data=rows, loss=cubic)
    trace, metric = problem.train(60), problem.metric()
    Memory(monkeypatch, 2)
    message = r"^retraining without removals\[5\] \(rows 0\): training diverged"
    with pytest.warns(RuntimeWarning, match="do not fit"), pytest.raises(gi.DivergenceError, match=message):
        gi.counterfactual(trace, metric, [[], [1], [], [0, 1], [], [0], []])


def test_the_progress_bar_ends_at_its_total(monkeypatch):
    bars = []

    class Watched(tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            bars.append(self)
            self.seen = []

        def update(self, n=1):
            shown = super().update(n)
            self.seen.append((self.n, self.total))
            return shown

    monkeypatch.setattr(sys.modules["gan_influence.counterfactual"], "tqdm", Watched)
    problem = mlp()
    trace = problem.train(6)
    Memory(monkeypatch, 4, late=8)
    with pytest.warns(RuntimeWarning, match="do not fit"):
        gi.counterfactual(trace, problem.metric(), REMOVALS, chunk=6, progress=True)
    (bar,) = bars
    assert bar.seen[5] == (6, 12)
    assert bar.seen[6:10] == [(7, 12), (8, 12), (6, 12), (7, 18)]
    assert (bar.n, bar.total) == (18, 18)


def test_validation_goes_on_with_fewer_models(monkeypatch):
    problem = lqgan()
    trace, metric = problem.train(10), problem.metric()
    scores = gi.itd(trace, metric)
    whole = validate(trace, metric, scores)
    Memory(monkeypatch, 6)
    with pytest.warns(RuntimeWarning, match="12 models at once do not fit in memory: going on with 6"):
        found = validate(trace, metric, scores)
    torch.testing.assert_close(found.truth, whole.truth, rtol=0, atol=1e-14)
    assert found.rows == whole.rows
    assert found.trusted == whole.trusted


def test_nothing_is_said_where_all_fits(monkeypatch):
    trace = lqgan().train(4)
    memory = Memory(monkeypatch, 12)
    gi.counterfactual(trace, lqgan().metric(), REMOVALS)
    assert memory.steps == [12] * 4


def test_the_allocators_own_message_is_known():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert _is_out_of_memory(raised.value)
