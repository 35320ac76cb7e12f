"""Properties of training, scores and removals, each of every kind of game in ``tests/support/kinds.py``."""

import copy
from functools import lru_cache, partial

import pytest
import torch
from support.games import same_bits
from support.kinds import KINDS, LACKS, OUT, RULES, STEPS, N, known, made
from support.unrolled import Plain, batch_at, copied, field, measured, named, unrolled

import gan_influence as gi
from gan_influence import trees

pytestmark = pytest.mark.filterwarnings("ignore:the second derivative of a step of training:RuntimeWarning")
REMOVALS = [[0], [3, 7], [OUT]]


def each_kind(test):
    """Of every kind; one that lacks the property is expected not to have it."""
    name = test.__name__.removeprefix("test_")
    lacking = {kind: lacks[name] for kind, lacks in LACKS.items() if name in lacks}
    marks = {kind: [pytest.mark.xfail(reason=reason, strict=True)] for kind, reason in lacking.items()}
    return pytest.mark.parametrize("kind", [pytest.param(kind, marks=marks.get(kind, [])) for kind in KINDS])(test)


def close(actual, expected, rtol=1e-9):
    """Relative to the largest number."""
    assert actual.shape == expected.shape
    assert float(expected.abs().max()) > 1e-9, "nothing to compare"
    assert float((actual - expected).abs().max()) <= rtol * float(expected.abs().max())


# ---------------------------------------------------------------------------------------- the same run in plain torch


def plain(kind, weights, steps=STEPS):
    return unrolled(
        kind.players,
        kind.cost,
        kind.data,
        kind.batch,
        steps,
        {name: RULES[kind.rule].move(module) for name, module in kind.players.items()},
        kind.cycle,
        weights,
        l2=kind.game.l2,
        period=kind.game.period,
        decay=kind.decay,
    )


def value_of(kind, run):
    return measured(kind.metric, kind.players, run.seen, run.buffers).reshape(-1)


@lru_cache
def unrolled_run(name):
    """Of a kind, its weights, the run and the metric."""
    kind = made(name)
    weights = kind.weights.clone().requires_grad_()
    run = plain(kind, weights)
    return kind, weights, run, value_of(kind, run)


@each_kind
def test_training_is_that_of_plain_torch(kind):
    of, trace = known(kind)
    _, _, run, value = unrolled_run(kind)
    close(trace.theta(), torch.cat(list(run.at.values())).detach())
    close(trace.seen(), torch.cat(list(run.seen.values())).detach())
    for name, held in trace.held().items():
        player, _, buffer = name.partition(".")
        close(held.double(), run.buffers[player][buffer].double())
    close(gi.measure(of.metric, trace).reshape(-1), value.detach())


@each_kind
def test_itd_is_minus_the_derivative_of_unrolled_training(kind):
    of, trace = known(kind)
    _, weights, _, value = unrolled_run(kind)
    slopes = torch.stack([torch.autograd.grad(one, weights, retain_graph=True)[0] for one in value])
    close(gi.itd(trace, of.metric).reshape(-1, N), -of.weights * slopes)


@each_kind
def test_removals_are_retraining_in_plain_torch(kind):
    of, trace = known(kind)
    _, _, _, value = unrolled_run(kind)
    truth = []
    for removed in REMOVALS:
        weights = of.weights.clone()
        weights[removed] = 0
        truth.append((value_of(of, plain(of, weights)) - value).detach())
    found = gi.counterfactual(trace, of.metric, REMOVALS)
    close(found.reshape(-1, len(REMOVALS)), torch.stack(truth, dim=1), rtol=1e-7)


@each_kind
def test_aid_is_the_series_of_plain_torch(kind):
    """``eta / N  grad rows_j . sum_m Z_m^T ... Z_1^T grad E``, with ``Z_m = I - eta J(theta_T; batch_{T+m-1})``."""
    of, trace = known(kind)
    *_, run, _ = unrolled_run(kind)
    found = gi.aid(trace, of.metric, terms=6, scale=0.1).reshape(-1, N)
    close(found, plain_aid(of, run, terms=6, eta=0.1))


def plain_aid(kind, run, terms, eta):
    at, seen = ({name: own.detach().requires_grad_() for name, own in part.items()} for part in (run.at, run.seen))

    def transposed(t, c):
        """``J(theta_T; batch_t)^T c``."""
        drawn = kind.batch(t)
        weights = kind.weights if drawn.indices is None else kind.weights[drawn.indices]
        batch = batch_at(t, kind.data, drawn, kind.game.period)
        slopes = field(kind.players, kind.cost, at, copied(run.buffers), batch, weights, list(at), kind.game.l2)
        along = sum((slopes[name] * c[name]).sum() for name in at)
        return dict(zip(at, torch.autograd.grad(along, list(at.values()), materialize_grads=True), strict=True))

    scores = []
    for value in measured(kind.metric, kind.players, seen, run.buffers).reshape(-1):
        gradient = torch.autograd.grad(value, list(seen.values()), retain_graph=True, materialize_grads=True)
        term = total = dict(zip(at, gradient, strict=True))
        for t in range(STEPS, STEPS + terms - 1):
            product = transposed(t, term)
            term = {name: term[name] - eta * product[name] for name in at}
            total = {name: total[name] + term[name] for name in at}
        scores.append(eta / N * kind.weights * row_slopes(kind, at, run.buffers, total))
    return torch.stack(scores)


def row_slopes(kind, at, buffers, along):
    """Each row's ``sum_p <c_p, grad_p rows_p>``, in the mean over turns, in blocks beside the last steps' draws."""
    size = len(kind.batch(0).indices) if kind.batch(0).indices is not None else N
    ends = [kind.batch(t) for t in reversed(range(STEPS))]
    ends = [batch for batch in ends if batch.indices is None or len(batch.indices) == size]
    blocks = []
    for k, which in enumerate(torch.arange(N).split(size)):
        drawn = which, *(draws_at(slice(len(which)), part) if len(which) < size else part for part in ends[k][1:])
        ones = torch.ones(len(which), dtype=torch.float64, requires_grad=True)
        of_turns = torch.zeros_like(ones)
        for turn in range(kind.game.period):
            batch = batch_at(turn, kind.data, drawn, kind.game.period)
            rows, _ = kind.cost(Plain(kind.players, at, copied(buffers), frozenset(at)), batch)
            paid = [torch.autograd.grad((ones * rows[p]).sum(), at[p], create_graph=True)[0] @ along[p] for p in rows]
            of_turns = of_turns + torch.autograd.grad(sum(paid), ones)[0]
        blocks.append(of_turns / kind.game.period)
    return torch.cat(blocks)


def draws_at(which, draws):
    return None if draws is None else trees.mapped(lambda leaf: leaf[which], draws)


# ----------------------------------------------------------------------------------------------- whose rows these are


def scored(trace, metric, removals):
    return gi.itd(trace, metric), gi.aid(trace, metric, terms=5), gi.counterfactual(trace, metric, removals)


def permuted(kind):
    """The kind's run with its data in another order, and each batch's rows, beside their draws, backwards."""
    order = torch.randperm(N, generator=torch.Generator().manual_seed(5))
    places = order.argsort()

    def schedule(t):
        indices, *draws = kind.batch(t)
        if indices is None:
            return kind.batch(t)
        backwards = torch.arange(len(indices)).flip(0)
        return gi.Batch(places[indices][backwards], *(draws_at(backwards, part) for part in draws))

    data = trees.mapped(lambda part: part[order], kind.data)
    return order, kind.train(data=data, schedule=schedule, weights=kind.weights[order])


@each_kind
def test_permuting_rows_permutes_scores(kind):
    of, trace = known(kind)
    order, other = permuted(of)
    close(gi.itd(other, of.metric), gi.itd(trace, of.metric)[..., order])
    removals = [[int(row)] for row in order[:4]]
    found = gi.counterfactual(other, of.metric, [[0], [1], [2], [3]])
    close(found, gi.counterfactual(trace, of.metric, removals), rtol=1e-7)


@each_kind
def test_permuting_rows_permutes_scores_of_aid(kind):
    of, trace = known(kind)
    order, other = permuted(of)
    close(gi.aid(other, of.metric, terms=5), gi.aid(trace, of.metric, terms=5)[..., order])


def with_a_copy(kind, row):
    """The kind's run with a row more, which is this one over again, in the same batches beside the same draws."""

    def schedule(t):
        indices, *draws = kind.batch(t)
        if indices is None:
            return kind.batch(t)
        places = (indices == row).nonzero()[:, 0]
        both = torch.cat([torch.arange(len(indices)), places])
        return gi.Batch(torch.cat([indices, torch.full_like(places, N)]), *(draws_at(both, part) for part in draws))

    data = trees.mapped(lambda part: torch.cat([part, part[row : row + 1]]), kind.data)
    return kind.train(data=data, schedule=schedule, weights=torch.cat([kind.weights, kind.weights[row : row + 1]]))


@each_kind
def test_both_copies_of_a_row_score_the_same(kind):
    of, _ = known(kind)
    trace = with_a_copy(of, 3)
    scores, truth = gi.itd(trace, of.metric), gi.counterfactual(trace, of.metric, [[3], [N]])
    close(scores[..., 3], scores[..., N])
    close(truth[..., 0], truth[..., 1], rtol=1e-7)


@each_kind
def test_both_copies_of_a_row_score_the_same_by_aid(kind):
    of, _ = known(kind)
    scores = gi.aid(with_a_copy(of, 3), of.metric, terms=5)
    close(scores[..., 3], scores[..., N])


@each_kind
def test_a_row_of_weight_zero_has_no_influence(kind):
    of, trace = known(kind)
    itd, aid, truth = scored(trace, of.metric, [[OUT], [3]])
    for of_rows, out, other in ((itd, OUT, 3), (aid, OUT, 3), (truth, 0, 1)):
        assert of_rows[..., out].eq(0).all()
        assert of_rows[..., other].ne(0).all()


# ---------------------------------------------------------------------------------------- several at once, each alone


@each_kind
def test_several_stops_are_each_run_that_ends_there(kind):
    of, trace = known(kind)
    stops, removals = [5, 8, 0, 5], [[0], [3, 7]]
    alone = {stop: of.train(stop) for stop in {*stops} - {0}}
    by_itd, truth = gi.itd(trace, of.metric, at=stops), gi.counterfactual(trace, of.metric, removals, at=stops, chunk=1)
    for k, stop in enumerate(stops):
        if stop == 0:
            assert by_itd[..., k, :].eq(0).all()
            assert truth[..., k, :].eq(0).all()
            continue
        close(by_itd[..., k, :], gi.itd(alone[stop], of.metric))
        close(truth[..., k, :], gi.counterfactual(alone[stop], of.metric, removals), rtol=1e-7)


@each_kind
def test_several_metrics_in_one_sweep_are_each_alone_and_scores_linear_in_them(kind):
    of, trace = known(kind)
    first, second = (
        lambda players: of.metric(players).sum(),
        lambda players: (1 + of.metric(players).square()).log().sum(),
    )
    both = lambda players: 2 * first(players) - 3 * second(players)  # noqa: E731
    estimators = gi.itd, partial(gi.aid, terms=5), partial(gi.counterfactual, removals=[[0], [3, 7]])
    for estimator, rtol in zip(estimators, (1e-9, 1e-9, 1e-7), strict=True):
        together = estimator(trace, [first, second, both])
        close(together[:2], torch.stack([estimator(trace, one) for one in (first, second)]), rtol)
        close(together[2], 2 * together[0] - 3 * together[1], rtol)


@each_kind
def test_removals_together_are_each_alone(kind):
    of, trace = known(kind)
    removals = [[0], [3, 7], [], [1, 2, 5]]
    alone = torch.stack([gi.counterfactual(trace, of.metric, [rows])[..., 0] for rows in removals], dim=-1)
    close(gi.counterfactual(trace, of.metric, removals), alone, rtol=1e-7)


# ---------------------------------------------------------------------------------------- the same run in another way


def everything(trace, metric):
    return [*trace.state(), *scored(trace, metric, [[0], [3, 7]])]


@each_kind
def test_the_same_seed_gives_the_same_bits(kind):
    (of, trace), again = known(kind), made(kind)
    assert same_bits(everything(again.train(), again.metric), everything(trace, of.metric))


@pytest.mark.bits
@each_kind
def test_recorded_steps_give_the_bits_of_eager_ones(kind, monkeypatch):
    of, trace = known(kind)  # too short to be recorded
    monkeypatch.setattr("gan_influence.replay.recorded._EAGER_CALLS", 2)
    recorded = of.train()
    assert same_bits(recorded.state(), trace.state())
    assert same_bits(gi.itd(recorded, of.metric), gi.itd(trace, of.metric))


@pytest.mark.bits
@each_kind
@pytest.mark.parametrize("keep_graphs", [False, True], ids=["twice", "graphs-kept"])
def test_checkpointed_runs_give_the_bits_of_full_ones(kind, keep_graphs):
    of, trace = known(kind)
    checkpointed = of.train(memory=gi.Checkpoint(every=4, keep_graphs=keep_graphs))
    for t in range(STEPS + 1):
        assert same_bits(checkpointed.state(t), trace.state(t))
    for estimator in (gi.itd, partial(gi.counterfactual, removals=[[0], [3, 7]])):
        assert same_bits(estimator(checkpointed, of.metric), estimator(trace, of.metric))


@each_kind
def test_a_run_that_is_read_from_a_file_is_the_run(kind, tmp_path):
    of, trace = known(kind)
    trace.save(tmp_path / "run.pt")
    again = gi.load_trace(tmp_path / "run.pt", of.game, of.data, of.schedule, RULES[of.rule].ours, **of.options)
    assert same_bits(everything(again, of.metric), everything(trace, of.metric))


@each_kind
def test_going_on_from_plain_torch_is_the_whole_run(kind):
    """Its first steps by hand, the others from a :class:`gan_influence.Start`."""
    of, trace = known(kind)
    done, rule = 4, RULES[of.rule]
    run = plain(of, of.weights, done)
    players = copy.deepcopy(of.players)
    for name, module in players.items():
        module.load_state_dict({**named(module, run.at[name].detach()), **run.buffers[name]}, strict=False)
    optimizer = {name: rule.state_dict(of.players[name], run.memories[name], run.taken[name]) for name in players}
    average = {name: named(of.players[name], run.seen[name].detach()) for name in of.decay}
    start = gi.Start(optimizer, average or None, step=done)
    rest = of.train(STEPS - done, game=of.of(players), start=start)
    close(rest.state().moving, trace.state().moving)
    close(gi.itd(rest, of.metric), gi.itd(trace, of.metric, last=STEPS - done))


@each_kind
def test_single_precision_agrees(kind):
    of, trace = known(kind)
    single = made(kind, torch.float32)
    other = single.train()
    assert other.theta().dtype == torch.float32
    scores = (scored(run, metric, [[0], [3, 7]]) for run, metric in ((trace, of.metric), (other, single.metric)))
    for exact, rounded, rtol in zip(*scores, (1e-3, 1e-3, 1e-2), strict=True):
        assert rounded.dtype == torch.float32
        close(rounded.double(), exact, rtol)


def test_what_a_kind_lacks_is_one_of_these_properties():
    assert {f"test_{name}" for lacks in LACKS.values() for name in lacks} <= globals().keys()
