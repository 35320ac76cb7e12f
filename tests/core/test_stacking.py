"""Models that torch cannot batch are computed one after another, with the reason, and to the same numbers."""

import warnings

import pytest
import torch
from support.games import mlp, relative_error
from torch import nn
from torch.nn.functional import embedding

import gan_influence as gi

NOTICE = r"models of this game are computed one after another, .*: "


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(2, 4).double(), nn.Linear(4, 1).double()

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.r, self.o = kind(1, 4, batch_first=True).double(), nn.Linear(4, 1).double()

    def forward(self, x):
        return self.o(self.r(x.unsqueeze(-1))[0][:, -1])


class ReadsANumber(Net):
    def forward(self, x):
        return super().forward(x) * (1 + self.a.weight.detach().norm().item())


class Masks(Net):
    def forward(self, x):
        h = torch.tanh(self.a(x))
        return self.b(torch.where(h > 0, h, h.new_zeros(())) + h[h > 0].sum() * 0)


class Accumulates(Net):
    def forward(self, x):
        out = torch.zeros(len(x), 1, dtype=x.dtype)
        for k in range(2):
            out += x[:, k : k + 1] * self.a.weight[0, k]
        return out + super().forward(x)


class Penalises(Net):
    """The slope of its own logit, by autograd.grad in the forward pass."""

    def forward(self, x):
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            logit = super().forward(x)
            (slope,) = torch.autograd.grad(logit.sum(), x, create_graph=True)
        return logit + slope.square().sum(1, keepdim=True)


class Twice(torch.autograd.Function):
    """Without a rule for vmap."""

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g


class OwnFunction(Net):
    def forward(self, x):
        return super().forward(Twice.apply(x))


UNBATCHED = {
    "gru": lambda: Recurrent(nn.GRU),
    "lstm": lambda: Recurrent(nn.LSTM),
    "item": ReadsANumber,
    "mask": Masks,
    "in-place": Accumulates,
    "autograd-in-forward": Penalises,
    "own-function": OwnFunction,
    "attention-in-eval": lambda: Attending().eval(),
}


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.e, self.o = nn.Linear(1, 8).double(), nn.Linear(8, 1).double()
        self.m = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True, dropout=0.0).double()

    def forward(self, x):
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            return self.o(self.m(self.e(x.unsqueeze(-1)))).mean(1)


class Embeds(nn.Module):
    """Row 0 of its table is padding, which torch never trains, but under vmap does."""

    def __init__(self, table):
        super().__init__()
        torch.manual_seed(0)
        self.e, self.o = table.double(), nn.Linear(4, 1).double()
        nn.init.ones_(self.e.weight)

    def tokens(self, x):
        return (x[:, :2] > 0.5).long() + (x[:, 1:] > 1).long()

    def forward(self, x):
        return self.o(torch.tanh(x.sum(1, keepdim=True) * self.e(self.tokens(x)).sum(1)))


class EmbedsByFunction(Embeds):
    def forward(self, x):
        found = embedding(self.tokens(x), self.e.weight, padding_idx=0)
        return self.o(torch.tanh(x.sum(1, keepdim=True) * found.sum(1)))


def padded():
    return nn.Embedding(4, 4, padding_idx=0)


WRONG = {"module": lambda: Embeds(padded()), "function": lambda: EmbedsByFunction(nn.Embedding(4, 4))}


def apart(trace, metric, removals):
    return torch.stack([metric(gi.retrain(trace, removed)) - metric(trace) for removed in removals])


def quietly(function):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function()


@pytest.mark.parametrize("discriminator", (UNBATCHED | WRONG).values(), ids=(UNBATCHED | WRONG))
def test_removals_equal_retraining_one_by_one(discriminator):
    problem = mlp(discriminator=discriminator(), rates=(0.3, 0.3))
    metric, removals = problem.metric(), [[0], [1], [3, 5]]
    trace = quietly(lambda: problem.train(30))
    truth = quietly(lambda: gi.counterfactual(trace, metric, removals))
    torch.testing.assert_close(truth, apart(trace, metric, removals), rtol=0, atol=1e-12)
    assert truth.abs().min() > 1e-9


@pytest.mark.parametrize("discriminator", (UNBATCHED | WRONG).values(), ids=(UNBATCHED | WRONG))
def test_several_stops_equal_each_alone(discriminator):
    problem = mlp(discriminator=discriminator())
    metric, stops = problem.metric(), [10, 20]
    trace = quietly(lambda: problem.train(20))
    for estimate in (gi.itd, lambda *given, **options: gi.aid(*given, terms=5, **options)):
        together = quietly(lambda estimate=estimate: estimate(trace, metric, at=stops))
        for stop, scores in zip(stops, together, strict=True):
            alone = quietly(lambda estimate=estimate, stop=stop: estimate(trace, metric, at=[stop]))[0]
            assert relative_error(scores, alone) < 1e-12


@pytest.mark.parametrize(("kind", "reason"), [("gru", r"gru"), ("own-function", r"vmap"), ("item", r"item")])
def test_the_reason_is_told_once(kind, reason):
    problem = mlp(discriminator=UNBATCHED[kind]())
    trace = quietly(lambda: problem.train(10))
    with pytest.warns(RuntimeWarning, match=NOTICE + f"(?i:.*{reason})"):
        gi.counterfactual(trace, problem.metric(), [[0]])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=NOTICE)
        gi.counterfactual(trace, problem.metric(), [[1]])
        gi.counterfactual(gi.retrain(trace, [2]), problem.metric(), [[1]])


def test_a_wrong_rule_for_vmap_is_found_and_its_error_told():
    problem = mlp(discriminator=WRONG["module"]())
    with pytest.warns(
        RuntimeWarning, match=NOTICE + r"torch's derivatives of step 0 of two together differ from those"
    ):
        gi.counterfactual(problem.train(10), problem.metric(), [[0]])


def test_several_runs_that_cannot_share_a_batch_are_retrained_apart():
    problems = [mlp(discriminator=Recurrent(nn.GRU), data=mlp().data + k) for k in range(2)]
    traces, metrics = [quietly(lambda p=p: p.train(10)) for p in problems], [p.metric() for p in problems]
    found = quietly(lambda: gi.counterfactuals(traces, metrics, [[[0], [1]], [[2], [3]]]))
    for trace, metric, removals, of_run in zip(traces, metrics, ([[0], [1]], [[2], [3]]), found, strict=True):
        torch.testing.assert_close(of_run, apart(trace, metric, removals), rtol=0, atol=1e-12)


def test_players_that_torch_can_batch_are_batched():
    problem = mlp()
    trace = problem.train(5)
    gi.counterfactual(trace, problem.metric(), [[0]])
    assert trace.game.stacks


def test_validation_works_where_models_cannot_be_stacked():
    problem = mlp(discriminator=Recurrent(nn.GRU), rates=(0.3, 0.3))
    trace = quietly(lambda: problem.train(20))
    scores = gi.itd(trace, problem.metric())
    found = quietly(lambda: gi.validate(trace, problem.metric(), scores))
    torch.testing.assert_close(
        found.truth, apart(trace, problem.metric(), [[row] for row in found.rows]), rtol=0, atol=1e-12
    )
