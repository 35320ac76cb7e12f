"""The contract for every game: costs by player, trees, several metrics, files, what is watched, and what is refused."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from support.games import minibatch_mlp, mlp, normal, relative_error, same_bits
from torch import nn
from torch.nn.functional import cross_entropy, softplus

import gan_influence as gi


def cost(players, batch):
    real, fake = players.discriminator(batch.rows)[:, 0], players.discriminator(players.generator(batch.latents))[:, 0]
    return gi.Costs(
        {"discriminator": softplus(-real)}, {"discriminator": softplus(fake).mean(), "generator": -fake.mean()}
    )


def net(*sizes):
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers[:-1]).double()


def players():
    torch.manual_seed(0)
    return {"generator": net(3, 4, 2), "discriminator": net(2, 4, 1)}


DATA, Z = normal(1, 12, 2), normal(2, 6, 3)
SCHEDULE = gi.Minibatches(12, 4, latent_shape=(3,), seed=0)


def train(
    cost=cost, steps=5, data=DATA, schedule=SCHEDULE, optimizer=None, modules=None, update="simultaneous", **game
):
    made = gi.Game(players=modules or players(), cost=cost, **game)
    return gi.train(made, data, schedule, steps, optimizer or gi.SGD(0.1), update=update)


def of_generator(players):
    return players.generator(Z).square().mean()


def of_discriminator(players):
    return players.discriminator(DATA).mean()


# ---------------------------------------------------------------------------------------------------------- metrics


ESTIMATORS = {"itd": gi.itd, "aid": partial(gi.aid, terms=10), "gmres": partial(gi.aid, solver="gmres", damping=1.0)}
each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)


@pytest.mark.parametrize("options", [{}, {"at": [3, 5]}], ids=["end", "stops"])
@each_estimator
def test_several_metrics_in_one_sweep_are_each_alone(estimator, options):
    trace = train()
    together = estimator(trace, [of_generator, of_discriminator], **options)
    alone = torch.stack([estimator(trace, metric, **options) for metric in (of_generator, of_discriminator)])
    assert together.shape == alone.shape
    assert relative_error(together, alone) < 1e-9


@each_estimator
def test_a_vector_is_as_many_metrics(estimator):
    trace = train()
    of_each = estimator(trace, lambda players: players.discriminator(DATA[:3])[:, 0])
    alone = [estimator(trace, lambda players, k=k: players.discriminator(DATA[:3])[k, 0]) for k in range(3)]
    assert of_each.shape == (3, 12)
    assert relative_error(of_each, torch.stack(alone)) < 1e-9
    truth = gi.counterfactual(trace, lambda players: players.discriminator(DATA[:3])[:, 0], [[1], [2, 5]])
    assert truth.shape == (3, 2)


def test_each_test_points_loss_is_a_metric_of_its_own_and_their_mean_the_average():
    torch.manual_seed(0)
    inputs, labels = normal(3, 12, 4), torch.arange(12) % 3
    game = gi.Game(None, nn.Linear(4, 3).double(), loss="cross_entropy")
    trace = gi.train(game, (inputs, labels), gi.Minibatches(12, 4), 20, gi.SGD(0.1))
    each = gi.itd(trace, gi.metrics.AverageLoss(inputs[:5], labels[:5], each=True))
    assert relative_error(each.mean(0), gi.itd(trace, gi.metrics.AverageLoss(inputs[:5], labels[:5]))) < 1e-12
    assert same_bits(each, gi.itd(trace, gi.metrics.PlayerLoss("model", (inputs[:5], labels[:5]), each=True)))


@pytest.mark.parametrize("memory", ["full", gi.Checkpoint(keep_graphs=True)], ids=["full", "kept"])
def test_more_test_points_than_share_a_pass_are_each_alone(memory):
    """Of 20 000 parameters 16 cotangents share one, and 35 points at two stops are 70."""
    inputs, labels = normal(3, 35, 2000), torch.arange(35) % 10
    game = gi.Game(None, nn.Linear(2000, 10).double(), loss="cross_entropy")
    trace = gi.train(game, (inputs, labels), gi.Minibatches(35, 4), 3, gi.SGD(0.01), memory=memory)
    each = gi.itd(trace, gi.metrics.AverageLoss(inputs, labels, each=True), at=[2, 3])
    for k in (0, 15, 16, 34):
        alone = gi.itd(trace, gi.metrics.AverageLoss(inputs[k : k + 1], labels[k : k + 1]), at=[2, 3])
        assert relative_error(each[k], alone) < 1e-9


def test_the_discriminators_test_loss_ranks_rows():
    trace = train()
    metric = gi.metrics.PlayerLoss("discriminator", DATA[:4], Z)
    fake, real = trace.players().discriminator(trace.players().generator(Z)), trace.players().discriminator(DATA[:4])
    assert float(metric(trace)) == pytest.approx(float(softplus(-real).mean() + softplus(fake).mean()), rel=1e-12)
    score, h, ends = float(gi.itd(trace, metric)[1]), 1e-5, []
    for sign in (1, -1):
        weights = torch.ones(12).double()
        weights[1] += sign * h
        ends.append(float(metric(gi.train(trace.game, DATA, SCHEDULE, 5, gi.SGD(0.1), weights=weights))))
    again = gi.train(trace.game, DATA, SCHEDULE, 5, gi.SGD(0.1))
    assert score == pytest.approx((ends[1] - ends[0]) / (2 * h), rel=1e-6)
    assert gi.measure(of_discriminator, again) == of_discriminator(again.players())


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("schedule", [gi.FullBatch(Z), SCHEDULE], ids=["full", "minibatches"])
def test_aid_takes_the_mean_over_the_turns_of_a_lazy_penalty(masked, schedule):
    """Four times the penalty at every fourth step is, in the mean, the penalty at every step."""
    scores = []
    for every in (1, 4):
        penalty = gi.penalties.R1(0.5, every=every, masked=masked)
        game = gi.Game(*players().values(), loss="non_saturating", l2=(0.5, 0.5), penalties=[penalty])
        trace = gi.train(game, DATA, schedule, 0, gi.SGD(0.1))
        scores.append(gi.aid(trace, of_discriminator, solver="gmres", damping=1.0))
    if isinstance(schedule, gi.FullBatch):
        assert relative_error(scores[1], scores[0]) < 1e-9
    else:  # batches of other rows and latents bear the penalty: equal but for that
        assert relative_error(scores[1], scores[0]) < 0.2


# ------------------------------------------------------------------------------------------------- data and schedules


def test_rows_are_trees_of_any_type():
    """A dict of tokens and bytes, cast by the cost, against floating-point rows."""

    class Embedded(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.last = nn.Embedding(5, 2).double(), net(3, 1)

        def forward(self, token, level):
            return self.last(torch.cat([self.embedding(token), level.double()[:, None] / 255], 1))[:, 0]

    def cost(players, batch):
        return gi.Costs({"model": (players.model(batch.rows["token"], batch.rows["level"]) - 1).square()})

    torch.manual_seed(1)
    data = {"token": torch.arange(12) % 5, "level": torch.arange(12, dtype=torch.uint8) * 20}
    trace = train(cost, data=data, schedule=gi.Minibatches(12, 4), modules={"model": Embedded()})
    assert trace.inputs(0).rows["level"].dtype == torch.uint8
    scores = gi.itd(trace, gi.metrics.PlayerLoss("model", data))
    assert scores.abs().min() > 0


def test_a_dataset_is_a_tree_of_its_rows():
    items = [(torch.full((2,), float(k)), k % 3) for k in range(4)]
    inputs, labels = gi.rows(items)
    assert (inputs.shape, labels.tolist()) == ((4, 2), [0, 1, 2, 0])
    with pytest.raises(ValueError, match="item 1 of the dataset differs from item 0"):
        gi.rows([(torch.zeros(2), 1), (torch.zeros(3), 1)])
    with pytest.raises(ValueError, match="the dataset is empty"):
        gi.rows([])


def test_a_list_of_batches_is_a_schedule():
    batches = [SCHEDULE(t) for t in range(5)]
    one, other = (train(schedule=of) for of in (batches, gi.Minibatches(12, 4, (3,), seed=0, dtype=torch.float64)))
    assert same_bits(one.states, other.states)


def test_in_a_cycle_an_epoch_counts_the_steps_that_look_at_rows():
    trace = train(update=["discriminator", "discriminator", "generator"], steps=9)
    looked = torch.cat([trace.batch(t).indices for t in range(9) if t % 3 < 2][:3])
    assert sorted(looked.tolist()) == list(range(12))


def test_noise_and_latents_have_streams_of_their_own():
    draw = lambda rng, n: rng.standard_normal((n, 3))  # noqa: E731
    batch = gi.Minibatches(12, 4, latents=draw, noise=draw, seed=3)(7)
    assert same_bits(batch.latents, gi.Minibatches(12, 4, latent_shape=(3,), seed=3)(7).latents)
    assert not torch.equal(batch.latents, batch.noise)


# ------------------------------------------------------------------------------------------- files, what is watched


def test_a_file_of_another_run_and_a_damaged_one_are_refused(tmp_path):
    problem = minibatch_mlp()
    trace = problem.train(10, optimizer=gi.Adam(0.01), ema_decay=0.9)
    trace.save(tmp_path / "run.pt")
    given = problem.game(), problem.data, problem.schedule, gi.Adam(0.01)
    with pytest.raises(ValueError, match=r"holds another run, which differs in .*ema_decay was 0.9, is None"):
        gi.load_trace(tmp_path / "run.pt", *given)
    content = (tmp_path / "run.pt").read_bytes()
    (tmp_path / "run.pt").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(gi.DamagedFileError, match="checksum"):
        gi.load_trace(tmp_path / "run.pt", *given, ema_decay=0.9)


def test_costs_are_recorded_and_steps_told():
    problem, seen = mlp(), []
    trace = gi.train(
        problem.game(), problem.data, problem.schedule, 7, gi.SGD(0.1), record=3, callback=lambda t, _: seen.append(t)
    )
    assert seen == list(range(1, 8))
    assert trace.losses["step"].tolist() == [0, 3, 6]
    costs, _ = trace.game.losses(trace.theta(3), trace.inputs(3))
    assert float(trace.losses["generator"][1]) == float(costs["generator"])


def test_the_averages_buffers_are_copied_or_averaged():
    """Of a generator with BatchNorm, against the same average by hand."""
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    game = gi.Game(generator, net(2, 4, 1))
    runs = {
        how: gi.train(game, DATA, SCHEDULE, 6, gi.SGD(0.1), ema_decay=0.8, average_buffers=how)
        for how in ("copy", "average")
    }
    name, average = "generator.1.running_mean", torch.zeros(4).double()
    for t in range(1, 7):
        average = 0.8 * average + 0.2 * runs["copy"].state(t).held[name]
    assert same_bits(runs["copy"].held()[name], runs["copy"].state().held[name])
    torch.testing.assert_close(runs["average"].held()[name], average, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(runs["average"].module("generator", averaged=True)[1].running_mean, average)
    assert not relative_error(of_generator(runs["copy"].players()), of_generator(runs["average"].players())) < 1e-6


def test_an_averages_decay_may_be_a_function_of_t():
    warm_up = lambda t: torch.clamp((1 + t) / (10 + t), max=0.9)  # noqa: E731
    problem = mlp()
    trace = gi.train(problem.game(), problem.data, problem.schedule, 80, gi.SGD(0.1), ema_decay=warm_up)
    average = problem.generator[0].weight.detach().clone()
    for t in range(80):
        own = trace.parameters(t + 1)["generator"]["0.weight"]
        keep = min((1 + t) / (10 + t), 0.9)
        average = keep * average + (1 - keep) * own
    torch.testing.assert_close(
        trace.parameters(averaged=True)["generator"]["0.weight"], average, rtol=1e-12, atol=1e-14
    )


def test_rows_that_interact_are_scored_where_that_is_asked_for():
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 1)).double()
    with pytest.raises(ValueError, match="rows_interact=True"):
        gi.Game(net(3, 4, 2), critic)
    trace = gi.train(gi.Game(net(3, 4, 2), critic, rows_interact=True), DATA, SCHEDULE, 5, gi.SGD(0.1))
    scores, truth = gi.itd(trace, of_generator), gi.counterfactual(trace, of_generator, [[k] for k in range(12)])
    assert relative_error(scores, truth) < 0.5


# ------------------------------------------------------------------------------------------------------------ refused


def with_costs(**changes):
    def changed(players, batch):
        return gi.Costs(**{**cost(players, batch)._asdict(), **changes})

    return changed


REFUSED = {
    "no-costs": ({"cost": lambda players, batch: {}}, TypeError, r"a cost must return gi.Costs\(rows=.*got dict"),
    "unknown-player": ({"cost": with_costs(rest={"critic": torch.zeros(())})}, ValueError, "rest of 'critic', but the"),
    "player-missing": ({"cost": with_costs(rest={})}, ValueError, "no entry of the generator, which would never learn"),
    "row-shape": (
        {"cost": with_costs(rows={"discriminator": torch.zeros(3).double()})},
        ValueError,
        r"the cost of the discriminator gives shape \(3,\) for 4 rows: it must give one cost a row",
    ),
    "rest-shape": ({"cost": with_costs(rest={"generator": torch.zeros(4)})}, ValueError, "it must give a scalar"),
    "calls-nobody": ({"cost": lambda players, batch: players.critic(batch.rows)}, AttributeError, "no player 'critic'"),
    "lengths": ({"data": (DATA, DATA[:5])}, ValueError, "the parts of data have 12, 5 rows"),
    "writes": (
        {"cost": lambda players, batch: cost(players, batch._replace(rows=batch.rows.mul_(2)))},
        ValueError,
        "the cost writes into its batch",
    ),
    "unmoved": ({"update": ["discriminator"]}, ValueError, "update never moves the generator"),
    "unknown-in-cycle": ({"update": ["critic", "generator"]}, ValueError, r"update\[0\] moves 'critic', which is none"),
    "no-optimizer": ({"optimizer": {"generator": gi.SGD(0.1)}}, ValueError, "optimizer has none for the discriminator"),
    "unknown-optimizer": ({"optimizer": {"critic": gi.SGD(0.1)}}, ValueError, "optimizer names 'critic'"),
    "unknown-l2": ({"l2": {"critic": 0.1}}, ValueError, "l2 names 'critic', but the players are"),
    "noise": (
        {"schedule": lambda t: gi.Batch(torch.arange(4), normal(t, 4, 3), torch.rand(4))},
        ValueError,
        "another batch of step 0 at each call, in its noise",
    ),
    "mixed-rows": (
        {"cost": with_costs(rows={"discriminator": None})},
        ValueError,
        "must give one cost a row",
    ),
}


@pytest.mark.parametrize(("changes", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_game_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        train(**changes)


def test_a_cost_whose_rows_mix_is_refused():
    def mixing(players, batch):
        found = cost(players, batch)
        rows = found.rows["discriminator"]
        return found._replace(rows={"discriminator": rows * rows.mean()})

    with pytest.raises(ValueError, match=r"the cost of the discriminator gives row 0 .*batch statistics"):
        train(mixing)


def test_a_player_needs_a_name_that_can_be_called_and_a_cost():
    with pytest.raises(ValueError, match=r"a player's name must be one that players.NAME can call, and not taken"):
        gi.Game(players={"game": net(1, 1)}, cost=cost)
    with pytest.raises(TypeError, match="players= need cost="):
        gi.Game(players=players())
    shared = net(2, 2)
    with pytest.raises(ValueError, match=r"generator parameter '0.weight' and discriminator parameter '0.weight'"):
        gi.Game(players={"generator": shared, "discriminator": shared}, cost=cost)


def test_rates_that_end_before_the_run_are_refused():
    rates = gi.TorchRates(lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2), lr=0.1, steps=4)
    cycle = ["discriminator", "generator"]
    assert train(steps=8, optimizer=gi.SGD(rates), update=cycle).steps == 8
    with pytest.raises(
        ValueError, match="the discriminator's rates are made for 4 updates, but it makes 5 up to step 9"
    ):
        train(steps=9, optimizer=gi.SGD(rates), update=cycle)


@pytest.mark.filterwarnings("ignore:AID's series does not converge:RuntimeWarning")
@pytest.mark.parametrize("step", range(12, 16))
def test_the_end_of_anothers_run_is_scored_without_a_step(step):
    """Wherever in an epoch it ends, and whatever the last batch's size."""
    schedule = gi.Minibatches(14, 5, latent_shape=(3,), seed=0)
    game = gi.Game(players=players(), cost=cost)
    trace = gi.train(game, normal(1, 14, 2), schedule, 0, gi.SGD(0.1), start=gi.Start(step=step))
    assert (trace.first, trace.steps) == (step, step)
    assert gi.aid(trace, of_generator, terms=3).shape == (14,)


def test_two_inputs_of_a_model_are_two_arguments():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = net(2, 3), net(4, 3)

        def forward(self, a, b):
            return self.first(a) + self.second(b)

    torch.manual_seed(0)
    a, b, labels = DATA, normal(4, 12, 4), torch.arange(12) % 3
    game = gi.Game(None, Two(), loss="cross_entropy")
    trace = gi.train(game, ((a, b), labels), gi.Minibatches(12, 4), 5, gi.SGD(0.1))
    metric = lambda players: cross_entropy(players.outputs((a, b)), labels)  # noqa: E731
    scores, truth = gi.itd(trace, metric), gi.counterfactual(trace, metric, [[k] for k in range(12)])
    assert relative_error(scores, truth) < 0.3
