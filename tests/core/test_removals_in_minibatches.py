"""A retraining starts where its first removed row was used: before that step nothing differs."""

import pytest
import torch
from support.games import ORDERS, minibatch_mlp, same_bits

import gan_influence as gi

STEPS = 7
PROBLEM = minibatch_mlp()  # 14 rows in batches of 5, 5 and 4
BATCHES = [set(PROBLEM.schedule(t).indices.tolist()) for t in range(STEPS)]
WINDOW = 2  # of this many last steps the batches leave some rows out
IN_WINDOW = set().union(*BATCHES[-WINDOW:])
UNUSED = sorted(set(range(14)) - IN_WINDOW)


class Counting:
    """Gradient descent that counts the models' updates."""

    elementwise = True  # one call a step
    buffers = 0
    lr = 0.1

    def __init__(self):
        self.models = []

    def update(self, step, state, gradient):
        self.models.append(len(state) if state.ndim == 3 else 1)
        return state - self.lr * gradient.unsqueeze(-2)


def first_use(removed, start=0):
    """By hand: the first step of the window whose batch holds one of the rows."""
    return next((t for t in range(start, STEPS) if BATCHES[t] & set(removed)), STEPS)


def counted(removals, **options):
    """The counterfactuals, and how many models each step trained."""
    optimizer = Counting()
    trace = PROBLEM.train(STEPS, optimizer=optimizer)
    optimizer.models.clear()
    truth = gi.counterfactual(trace, PROBLEM.metric(), removals, **options)
    return truth, optimizer.models


@pytest.mark.parametrize("row", range(14))
def test_a_removal_is_retrained_from_its_first_use_on(row):
    _, models = counted([[row]])
    assert models == [2] * (STEPS - first_use([row]))  # with the factual model beside it


def test_removals_apart_start_apart():
    removals = [[row] for row in range(14)]
    _, models = counted(removals, chunk=1)
    assert len(models) == sum(STEPS - first_use(removed) for removed in removals)
    late = [removed for removed in removals if first_use(removed) == 2]
    _, models = counted(late)
    assert models == [1 + len(late)] * (STEPS - 2)


def test_the_first_of_several_rows_counts():
    late, early = sorted(BATCHES[2] - BATCHES[0])[0], sorted(BATCHES[1])[0]
    _, models = counted([[late, early]])
    assert len(models) == STEPS - 1


def test_a_row_that_the_window_never_uses_has_exactly_no_influence_and_takes_no_step():
    truth, models = counted([[row] for row in UNUSED] + [UNUSED], last=WINDOW)
    assert len(UNUSED) >= 4
    assert truth.eq(0).all()
    assert models == []


def test_unused_rows_among_others_have_exactly_no_influence():
    used = sorted(IN_WINDOW)[:2]
    truth, _ = counted([[UNUSED[0]], [used[0]], [], [UNUSED[1], used[1]]], last=3)
    unused = first_use([UNUSED[0]], STEPS - 3) == STEPS
    assert (truth[0] == 0) == unused
    assert truth[2] == 0


@pytest.mark.parametrize("last", [None, 5, 4, 2])
@pytest.mark.parametrize("order", ORDERS)
def test_values_equal_retraining_one_by_one(order, last):
    metric = PROBLEM.metric()
    trace = PROBLEM.train(STEPS, update=order, ema_decay=0.9, optimizer=gi.Adam(0.02))
    removals = [[row] for row in range(14)] + [[0, 7], [3, 4, 5]]
    truth = gi.counterfactual(trace, metric, removals, last=last)
    alone = [metric(gi.retrain(trace, removed, last=last)) - metric(trace) for removed in removals]
    torch.testing.assert_close(truth, torch.stack(alone), rtol=0, atol=1e-13)
    for influence, removed in zip(truth, removals, strict=True):
        if first_use(removed, 0 if last is None else STEPS - last) == STEPS:
            assert influence == 0


def test_stops_before_the_first_use_see_exactly_no_influence():
    metric, stops = PROBLEM.metric(), [1, 2, 3, 7, 0]
    removals = [[row] for row in range(14)]
    trace = PROBLEM.train(STEPS)
    truth = gi.counterfactual(trace, metric, removals, at=stops)
    for k, stop in enumerate(stops):
        shorter = PROBLEM.train(stop)
        alone = [metric(gi.retrain(shorter, removed)) - metric(shorter) for removed in removals]
        torch.testing.assert_close(truth[k], torch.stack(alone), rtol=0, atol=1e-13)
        for row in range(14):
            if first_use([row]) >= stop:
                assert truth[k, row] == 0


def test_steps_after_the_last_stop_are_not_taken():
    _, models = counted([[row] for row in sorted(BATCHES[0])], at=[3, 1])
    assert len(models) == 3


@pytest.mark.parametrize("chunk", [1, 3, 5, None])
def test_chunks_change_no_more_than_rounding(chunk):
    removals = [[row] for row in range(14)]
    truth, models = counted(removals, chunk=chunk)
    whole, _ = counted(removals, chunk=100)
    torch.testing.assert_close(truth, whole, rtol=0, atol=1e-14)
    assert chunk is None or max(models) <= 1 + chunk


def test_removals_keep_their_order_whichever_is_retrained_first():
    metric, trace = PROBLEM.metric(), PROBLEM.train(STEPS)
    rows = torch.randperm(14, generator=torch.Generator().manual_seed(0)).tolist()
    truth = gi.counterfactual(trace, metric, [[row] for row in rows], chunk=2)
    in_order = gi.counterfactual(trace, metric, [[row] for row in range(14)])
    torch.testing.assert_close(truth, in_order[rows], rtol=0, atol=1e-14)


def test_scores_of_rows_that_were_not_used_are_exactly_zero_too():
    trace = PROBLEM.train(STEPS, update="alternating")
    scores = gi.itd(trace, PROBLEM.metric(), last=WINDOW)
    assert scores[UNUSED].eq(0).all()
    assert scores[sorted(BATCHES[-2])].ne(0).all()


def test_a_full_batch_is_retrained_from_the_start():
    problem = minibatch_mlp(schedule=gi.FullBatch(PROBLEM.fresh))
    trace = problem.train(3)
    truth = gi.counterfactual(trace, problem.metric(), [[1]], last=3)
    assert same_bits(truth, gi.counterfactual(trace, problem.metric(), [[1]]))
