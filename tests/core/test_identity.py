"""A checkpoint folder, and counterfactuals of several runs, know a run by all that it is made of."""

import functools
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from support.games import minibatch_mlp, normal, same_bits
from torch import nn
from torch.nn.functional import cross_entropy, softplus

import gan_influence as gi
from gan_influence.identity import described
from gan_influence.losses import RowLoss

PAIRS = normal(0, 12, 2), torch.arange(12) % 3


class Sloped(nn.Linear):
    """What its forward pass does hangs on a number of Python's."""

    def __init__(self, slope):
        torch.manual_seed(0)
        super().__init__(2, 3, dtype=torch.float64)
        self.slope = slope

    def forward(self, x):
        return self.slope * super().forward(x)


class Nested(nn.Module):
    def __init__(self, slope):
        super().__init__()
        self.layer = Sloped(1.0)
        self.settings = {"slopes": [1.0, slope]}

    def forward(self, x):
        return self.settings["slopes"][1] * self.layer(x)


class Hooked(Sloped):
    def __init__(self, slope):
        super().__init__(1.0)
        self.register_forward_hook(lambda module, inputs, output: slope * output)


class RateByTable:
    """An optimiser with a long tensor of rates."""

    buffers = 0
    weight_decay = 0.0

    def __init__(self, last):
        self.table = torch.full((2000,), 0.1, dtype=torch.float64)
        self.table[-1] = last
        self.lr = 0.1

    def update(self, step, state, gradient):
        return state - self.table[-1] * gradient.unsqueeze(-2)


def to_the_power(p):
    return lambda outputs, targets: (outputs - targets[:, None]).abs().pow(p).sum(1)


def times(k):
    return lambda outputs, targets: k * cross_entropy(outputs, targets, reduction="none")


def weighted(outputs, targets, k):
    return k * cross_entropy(outputs, targets, reduction="none")


class Scaled:
    def __init__(self, k):
        self.k = k

    def __call__(self, outputs, targets):
        return self.k * cross_entropy(outputs, targets, reduction="none")


def late(t_late):
    """A rate that differs at one step."""
    return lambda step: torch.where(step == t_late, 0.05, 0.1)


def batches(odd):
    """A schedule that differs at one step."""
    return lambda t: gi.Batch(torch.arange(3) + (t == odd), None)


def one_player(folder, model=None, loss="cross_entropy", schedule=None, lr=0.1, optimizer=None):
    game = gi.Game(None, model or Sloped(1.0), loss)
    schedule = schedule or gi.Minibatches(12, 4)
    return gi.train(game, PAIRS, schedule, 30, optimizer or gi.SGD(lr), memory=gi.Checkpoint(every=10, folder=folder))


DIFFERENT = {  # what to make of a number, and two numbers
    "attribute": (lambda k: {"model": Sloped(k)}, 1.0, 3.0),
    "nested-attribute": (lambda k: {"model": Nested(k)}, 1.0, 3.0),
    "hook": (lambda k: {"model": Hooked(k)}, 1.0, 3.0),
    "closure": (lambda k: {"loss": times(k)}, 1, 5),
    "inner-closure": (lambda k: {"loss": to_the_power(k)}, 2, 3),
    "partial": (lambda k: {"loss": functools.partial(weighted, k=k)}, 1, 5),
    "callable-object": (lambda k: {"loss": Scaled(k)}, 1, 5),
    "default-argument": (lambda k: {"loss": lambda o, t, k=k: k * cross_entropy(o, t, reduction="none")}, 1, 5),
    "rate-at-one-step": (lambda k: {"lr": late(k)}, 7, 8),
    "batch-at-one-step": (lambda k: {"schedule": batches(k)}, 13, 14),
    "long-tensor-of-an-optimiser": (lambda k: {"optimizer": RateByTable(k)}, 0.1, 0.2),
}


@pytest.mark.parametrize(("make", "one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_a_folder_is_that_of_one_run(make, one, other, tmp_path):
    first = one_player(tmp_path, **make(one))
    with pytest.raises(ValueError, match=r"holds another run, which differs in "):
        one_player(tmp_path, **make(other))
    assert same_bits(one_player(tmp_path, **make(one)).theta(), first.theta())
    assert not same_bits(one_player(None, **make(other)).theta(), first.theta())


@pytest.mark.parametrize(("make", "one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_runs_that_differ_are_retrained_apart(make, one, other):
    traces = [one_player(None, **make(k)) for k in (one, other)]
    metric = gi.metrics.AverageLoss(*PAIRS)
    if "schedule" in make(one):  # each run has batches of its own
        found = gi.counterfactuals(traces, [metric] * 2, [[[1]]] * 2)
        apart = [gi.counterfactual(trace, metric, [[1]]) for trace in traces]
        torch.testing.assert_close(found, torch.stack(apart), rtol=0, atol=1e-14)
        return
    with pytest.raises(ValueError, match=r"traces\[1\] differs from traces\[0\] in .*: retrain them apart"):
        gi.counterfactuals(traces, [metric] * 2, [[[1]]] * 2)


def gan_loss(k):
    """The same at ordinary logits, whatever k is."""
    return RowLoss(lambda a: softplus(-a), softplus, lambda a: softplus(-a) * torch.where(a < 99, 1.0, k))


def test_a_gans_loss_is_known_by_its_code_where_its_values_are_the_same(tmp_path):
    def run(k):
        problem = minibatch_mlp()
        game = gi.Game(problem.generator, problem.discriminator, loss=gan_loss(k))
        return gi.train(game, problem.data, problem.schedule, 9, gi.SGD(0.1), memory=gi.Checkpoint(3, tmp_path))

    run(1)
    with pytest.raises(ValueError, match=r"differs in loss was"):
        run(2)


FACTOR = 1.0


def test_globals_that_a_function_looks_up_belong_to_it(monkeypatch):
    def loss(outputs, targets):
        return FACTOR * outputs

    before = described(loss)
    assert described(loss) == before
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    assert described(loss) != before


def test_comments_and_docstrings_are_not_what_a_function_does():
    sources = (
        "def f(x):\n    return 2 * x\n",
        "def f(x):\n    # twice\n\n    return 2 * x\n",
        'def f(x):\n    """Twice."""\n    return 2 * x\n',
        "def f(x):\n    return 3 * x\n",
    )
    found = []
    for source in sources:
        names = {}
        exec(compile(source, "test_identity_source.py", "exec"), names)
        found.append(described(names["f"]))
    assert found[0] == found[1] == found[2] != found[3]


PROGRAM = """
    import sys, torch, gan_influence as gi
    from torch import nn
    class Model(nn.Module):
        def __init__(self):
            super().__init__(); torch.manual_seed(0); self.a = nn.Linear(2, 1); self.kinds = {"b", "a", "c"}
            self.a.register_forward_hook(lambda module, inputs, output: EXPRESSION)
        def forward(self, x):
            return self.a(x)
    if len(sys.argv) > 2: nn.Linear(1, 1).register_forward_hook(print)  # hooks are numbered in a process
    x = torch.arange(12.).view(6, 2) / 10
    game = gi.Game(None, Model(), lambda o, y: (o.view(-1) - y.view(-1)) ** 2)
    trace = gi.train(game, (x, x[:, :1]), gi.FullBatch(), 20, gi.SGD(0.02), memory=gi.Checkpoint(5, sys.argv[1]))
    print(float(trace.theta().norm()))
"""


def in_another_process(tmp_path, expression, *arguments, seed="0"):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM).replace("EXPRESSION", expression))
    environment = os.environ | {"PYTHONPATH": str(Path(gi.__file__).parents[1]), "PYTHONHASHSEED": seed}
    command = [sys.executable, "-W", "ignore", str(program), str(tmp_path / "run"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_another_process_knows_its_run_and_edited_code_is_another_run(tmp_path):
    first = in_another_process(tmp_path, "2 * output")
    again = in_another_process(tmp_path, "2 * output", "hooked", seed="7")
    assert again.stdout == first.stdout != ""
    edited = in_another_process(tmp_path, "3 * output")
    assert "holds another run, which differs in code of modules was" in edited.stderr


def test_a_folders_record_is_readable(tmp_path):
    one_player(tmp_path)
    record = json.loads((tmp_path / "run.json").read_text())
    assert set(record) > {"steps", "data", "modules", "code of modules", "loss", "optimizer", "schedule", "torch"}
