"""Minibatches are a pure function of (seed, t); learning rates are a function of an optimiser's own updates."""

import math
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.games import (
    minibatch_mlp,
    mlp,
    normal,
    relative_error,
    same_bits,
    textbook_run,
    textbook_scores,
    textbook_sgd,
)

import gan_influence as gi

SCHEDULE = gi.Minibatches(size=14, batch_size=5, latent_shape=(2,), seed=3)


def same_batch(one, other):
    return same_bits(one.indices, other.indices) and same_bits(one.latents, other.latents)


@given(size=st.integers(1, 40), part=st.floats(0, 1), seed=st.integers(0, 2**63), epoch=st.integers(0, 10**6))
def test_an_epoch_holds_every_row_once(size, part, seed, epoch):
    batch_size = 1 + int(part * (size - 1))
    schedule = gi.Minibatches(size, batch_size, seed=seed)
    steps = schedule.steps_per_epoch
    batches = [schedule(epoch * steps + k).indices for k in range(steps)]
    assert torch.cat(batches).sort().values.tolist() == list(range(size))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (steps - 1)
    assert 1 <= len(batches[-1]) <= batch_size


@given(asked=st.lists(st.integers(0, 200), min_size=1, max_size=12))
def test_a_step_is_the_same_whatever_was_asked_for_before(asked):
    schedule = gi.Minibatches(size=14, batch_size=5, latent_shape=(2,), seed=3)
    for t in asked:
        assert same_batch(schedule(t), SCHEDULE(t))
    in_order = [gi.Minibatches(size=14, batch_size=5, latent_shape=(2,), seed=3)(t) for t in sorted(asked)]
    assert all(same_batch(batch, SCHEDULE(t)) for batch, t in zip(in_order, sorted(asked), strict=True))


def test_a_copy_made_by_pickling_gives_the_same_batches():
    copy = pickle.loads(pickle.dumps(SCHEDULE))
    assert all(same_batch(copy(t), SCHEDULE(t)) for t in range(9))


def test_it_does_not_look_at_or_touch_the_global_generator():
    before = torch.get_rng_state()
    batches = [SCHEDULE(t) for t in range(6)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert all(same_batch(SCHEDULE(t), batch) for t, batch in enumerate(batches))


def test_changing_a_batch_in_place_changes_no_later_one():
    before = [SCHEDULE(t) for t in range(3)]
    kept = [batch.indices.clone() for batch in before]
    before[0].indices.zero_()
    assert [SCHEDULE(t).indices.tolist() for t in range(3)] == [indices.tolist() for indices in kept]


def test_every_epoch_has_an_order_of_its_own():
    schedule = gi.Minibatches(size=50, batch_size=50, seed=0)
    orders = {tuple(schedule(t).indices.tolist()) for t in range(20)}
    assert len(orders) == 20


def test_every_step_has_latents_of_its_own_and_one_for_each_row():
    batches = [SCHEDULE(t) for t in range(30)]
    assert [tuple(batch.latents.shape) for batch in batches[:3]] == [(5, 2), (5, 2), (4, 2)]
    assert len(torch.cat([batch.latents.reshape(-1) for batch in batches]).unique()) == 10 * 14 * 2


def test_seeds_differ_in_rows_and_latents():
    batches = [gi.Minibatches(50, 50, (3,), seed)(0) for seed in range(10)]
    assert len({tuple(batch.indices.tolist()) for batch in batches}) == 10
    assert len({float(batch.latents[0, 0]) for batch in batches}) == 10


def test_latents_are_standard_normal():
    latents = torch.cat([gi.Minibatches(100, 100, (20,), seed=1)(t).latents for t in range(50)]).reshape(-1)
    n = len(latents)  # 100 000: means of x, x^2, x^4 within 5 standard errors
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (4, 3, 96)):
        assert abs(float((latents**power).mean()) - expected) < 5 * math.sqrt(variance / n)


def test_every_row_is_as_likely_as_any_other_at_every_place():
    schedule = gi.Minibatches(5, 5, seed=2)
    counts = torch.zeros(5, 5)
    for t in range(2000):
        counts[torch.arange(5), schedule(t).indices] += 1
    chi_square = ((counts - 400) ** 2 / 400).sum()
    assert chi_square < 45  # 16 degrees of freedom: beyond 45 with probability 1e-4


def test_without_a_latent_shape_there_are_no_latents():
    batch = gi.Minibatches(size=5, batch_size=2)(0)
    assert batch.latents is None
    assert len(batch.indices) == 2


def test_latents_may_have_any_shape():
    assert gi.Minibatches(6, 4, latent_shape=[3, 2, 1])(1).latents.shape == (2, 3, 2, 1)
    assert gi.Minibatches(6, 4, latent_shape=())(0).latents.shape == (4,)


def test_latents_take_the_type_of_the_data_unless_told_otherwise():
    problem = minibatch_mlp()
    players = [player.float() for player in (problem.generator, problem.discriminator)]
    single = problem.but(generator=players[0], discriminator=players[1], data=problem.data.float())
    trace = single.train(2)
    assert trace.inputs(1).latents.dtype == torch.float32
    assert same_bits(trace.inputs(1).latents, SCHEDULE(1).latents.float())
    given = gi.Minibatches(14, 5, (2,), seed=3, dtype=torch.float32)
    assert given(0).latents.dtype == torch.float32
    with pytest.raises(TypeError, match=r"latents are torch.float32, but the data is torch.float64"):
        minibatch_mlp(schedule=given).train(2)


def test_the_last_batch_of_an_epoch_is_divided_by_its_own_size():
    problem = minibatch_mlp()
    trace = problem.train(6)
    assert [len(problem.schedule(t).indices) for t in range(6)] == [5, 5, 4, 5, 5, 4]
    run = textbook_run(problem, problem.ones, 6, textbook_sgd(0.1))
    expected = torch.stack([torch.cat(players).detach() for players in run])
    assert relative_error(trace.states[:, 0], expected) < 1e-13
    assert relative_error(gi.itd(trace, problem.metric()), textbook_scores(problem, 6, textbook_sgd(0.1))) < 1e-12


def test_one_batch_of_all_rows_is_the_full_batch_up_to_its_order():
    problem = mlp()
    latents = gi.Minibatches(14, 14, (2,), seed=3)(0).latents
    shuffled = problem.but(schedule=gi.Minibatches(14, 14, (2,), seed=3)).train(1)
    full = problem.but(schedule=gi.FullBatch(latents)).train(1)
    assert relative_error(shuffled.theta(), full.theta()) < 1e-14


BAD_SCHEDULES = {
    "no-rows": ({"size": 0}, r"size must be the number of training rows, at least 1, got 0"),
    "rows-by-halves": ({"size": 7.5}, r"size must be the number of training rows, at least 1, got 7.5"),
    "no-batch": ({"batch_size": 0}, r"batch_size must lie between 1 and size = 14, got 0"),
    "negative-batch": ({"batch_size": -5}, r"batch_size must lie between 1 and size = 14, got -5"),
    "more-than-all": ({"batch_size": 15}, r"batch_size must lie between 1 and size = 14, got 15"),
    "batch-by-halves": ({"batch_size": 2.0}, r"batch_size must lie between 1 and size = 14, got 2.0"),
    "bool": ({"batch_size": True}, r"batch_size must lie between 1 and size = 14, got True"),
    "latents-without-tuple": ({"latent_shape": 10}, r"latent_shape must be a tuple of lengths >= 1.*\(10,\), got 10"),
    "latents-of-no-length": ({"latent_shape": (3, 0)}, r"latent_shape must be a tuple .*got \(3, 0\)"),
    "negative-seed": ({"seed": -1}, r"seed must be a whole number .*got -1"),
    "seed-beyond-its-key": ({"seed": 2**64}, r"seed must be a whole number .*got 18446744073709551616"),
    "no-seed": ({"seed": None}, r"seed must be a whole number .*got None"),
    "type": ({"dtype": torch.int64}, r"dtype must be a floating-point data type, got torch.int64"),
}


@pytest.mark.parametrize(("changes", "message"), BAD_SCHEDULES.values(), ids=BAD_SCHEDULES)
def test_minibatches_refuse(changes, message):
    with pytest.raises(ValueError, match=message):
        gi.Minibatches(**({"size": 14, "batch_size": 5, "latent_shape": (2,), "seed": 3} | changes))


def test_large_seeds_are_told_apart():
    seeds = (2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1)
    assert len({tuple(gi.Minibatches(50, 50, seed=seed)(0).indices.tolist()) for seed in seeds}) == len(seeds)


@pytest.mark.parametrize("size", [13, 15])
def test_minibatches_are_made_for_as_many_rows_as_there_are(size):
    with pytest.raises(ValueError, match=rf"the schedule is made for {size} rows, but the data has 14"):
        minibatch_mlp(schedule=gi.Minibatches(size, 5, (2,))).train(2)


def test_latents_of_the_wrong_shape_are_refused():
    with pytest.raises(ValueError, match=r"the generator does not accept latents of shape \(5, 3\)"):
        minibatch_mlp(schedule=gi.Minibatches(14, 5, (3,))).train(2)


@pytest.mark.parametrize("schedule", [gi.Minibatches(14, 5), gi.FullBatch()])
def test_a_generator_needs_latents(schedule):
    message = r"the schedule gives no latents for the generator: FullBatch\(latents\), Minibatches\(..., latent_shape"
    with pytest.raises(ValueError, match=message):
        minibatch_mlp(schedule=schedule).train(2)


def test_inverse_sqrt_counts_updates_from_one():
    rates = [float(gi.InverseSqrt(0.3)(torch.tensor(float(k), dtype=torch.float64))) for k in range(4)]
    assert rates == pytest.approx([0.3, 0.3 / math.sqrt(2), 0.3 / math.sqrt(3), 0.15], rel=1e-15)


@pytest.mark.parametrize("order", ["simultaneous", "alternating", "turns"])
def test_schedules_of_both_players_follow_their_own_updates(order):
    problem = minibatch_mlp()
    pair = gi.SGD(gi.InverseSqrt(0.2)), gi.SGD(lambda step: 0.1 * 0.5**step, momentum=0.5)
    moves = textbook_sgd(lambda k: 0.2 / math.sqrt(k)), textbook_sgd(lambda k: 0.1 * 0.5 ** (k - 1), momentum=0.5)
    trace = problem.train(7, optimizer=pair, update=order)
    run = textbook_run(problem, problem.ones, 7, moves, order)
    assert relative_error(trace.theta(), torch.cat(run[-1]).detach()) < 1e-13
    assert relative_error(gi.itd(trace, problem.metric()), textbook_scores(problem, 7, moves, order)) < 1e-12


def test_counterfactuals_of_minibatches_reuse_rows_and_latents():
    problem = minibatch_mlp()
    trace = problem.train(7)
    truth = gi.counterfactual(trace, problem.metric(), [[3]])
    removed = problem.train(7, weights=problem.ones.index_fill(0, torch.tensor([3]), 0.0))
    torch.testing.assert_close(truth[0], problem.metric()(removed) - problem.metric()(trace), rtol=0, atol=1e-13)


def test_a_schedule_may_be_any_pure_function_of_the_step():
    def schedule(t):
        return gi.Batch(torch.tensor([t % 14, (3 * t + 1) % 14]), normal(50 + t, 4, 2))

    problem = minibatch_mlp(schedule=schedule)
    assert (
        relative_error(gi.itd(problem.train(6), problem.metric()), textbook_scores(problem, 6, textbook_sgd(0.1)))
        < 1e-12
    )
