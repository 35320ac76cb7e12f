"""Learning rates of ``torch.optim.lr_scheduler``, as tables."""

import math

import pytest
import torch
from support.quadratics import (
    Small,
    assert_derivatives_are_those_of_finite_differences,
    assert_equal,
    moved,
    recorded,
    started,
)
from support.quadratics import torch_moved as torch_run
from torch.optim import lr_scheduler as schedulers

import gan_influence as gi
from gan_influence.optimizers import InverseSqrt, TorchRates, rates_of

MAKERS = {
    "step": lambda of: schedulers.StepLR(of, 20, gamma=0.5),
    "milestones": lambda of: schedulers.MultiStepLR(of, [10, 40]),
    "exponential": lambda of: schedulers.ExponentialLR(of, 0.97),
    "cosine": lambda of: schedulers.CosineAnnealingLR(of, 30),
    "restarts": lambda of: schedulers.CosineAnnealingWarmRestarts(of, 15, T_mult=2),
    "polynomial": lambda of: schedulers.PolynomialLR(of, 50),
    "linear": lambda of: schedulers.LinearLR(of, total_iters=30),
    "from-zero": lambda of: schedulers.LambdaLR(of, lambda k: min(k / 10, 1.0)),
    "product": lambda of: schedulers.MultiplicativeLR(of, lambda k: 0.98),
    "cycle": lambda of: schedulers.CyclicLR(of, 0.001, 0.05, step_size_up=7, cycle_momentum=False),
    "one-cycle": lambda of: schedulers.OneCycleLR(of, 0.05, total_steps=70, cycle_momentum=False),
    "chained": lambda of: schedulers.ChainedScheduler(
        [schedulers.ExponentialLR(of, 0.98), schedulers.LinearLR(of, total_iters=12)]
    ),
    "one-after-another": lambda of: schedulers.SequentialLR(
        of, [schedulers.LinearLR(of, total_iters=10), schedulers.CosineAnnealingLR(of, 60)], [10]
    ),
    "averaging": lambda of: torch.optim.swa_utils.SWALR(of, swa_lr=0.001, anneal_epochs=20),
}
each_maker = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
PAIRS = {
    "momentum": (gi.SGD, torch.optim.SGD, {"momentum": 0.9}),
    "rmsprop": (gi.RMSProp, torch.optim.RMSprop, {"eps": 1e-3}),
    "adamw": (gi.AdamW, torch.optim.AdamW, {"eps": 1e-3}),
}


@pytest.mark.parametrize(("ours", "torchs", "settings"), PAIRS.values(), ids=PAIRS)
@each_maker
def test_seventy_steps_equal_torchs(make, ours, torchs, settings):
    module = Small()
    reference = torchs(module.parameters(), lr=0.02, **settings)
    expected = torch_run(module, reference, range(70), scheduler=_without_overrun(make(reference)))
    optimizer = ours(lr=TorchRates(make, lr=0.02, steps=70), **settings)
    assert_equal(moved(optimizer, started(optimizer), range(70))[0], expected)


def _without_overrun(scheduler):
    """The last of 70 steps has no next: OneCycleLR refuses it."""

    class UpTo70:
        taken = 0

        def step(self):
            self.taken += 1
            if self.taken < 70:
                scheduler.step()

    return UpTo70()


def test_the_table_holds_the_rate_of_each_update():
    rates = TorchRates(MAKERS["step"], lr=0.1, steps=50)
    assert rates.steps == 50
    assert rates.table.dtype == torch.float64
    assert rates.table.tolist() == [0.1] * 20 + [0.05] * 20 + [0.025] * 10
    assert rates_of(gi.SGD(rates), torch.tensor(20.0, dtype=torch.float64)) == 0.05


def test_a_table_of_one_update():
    assert TorchRates(MAKERS["one-cycle"], lr=0.1, steps=1).table.shape == (1,)


def test_several_models_at_different_updates_read_each_its_own():
    rates = TorchRates(MAKERS["cosine"], lr=0.1, steps=30)
    steps = torch.tensor([29.0, 0.0, 7.0], dtype=torch.float64)
    assert torch.vmap(rates)(steps).tolist() == [float(rates.table[k]) for k in (29, 0, 7)]


@pytest.mark.parametrize("make", [gi.SGD, gi.Adam, gi.AdamW], ids=["sgd", "adam", "adamw"])
def test_a_recorded_update_reads_the_rate_of_the_update_that_it_is_given(make):
    optimizer = make(TorchRates(MAKERS["exponential"], lr=0.1, steps=30))
    state, gradient = started(optimizer).expand(3, -1, -1), torch.ones(3, 13).double()
    step = torch.tensor(2.0, dtype=torch.float64)
    for function in (optimizer.update, torch.vmap(optimizer.update, in_dims=(None, 0, 0))):
        replay = recorded(function, step, state, gradient)
        for k in (2.0, 29.0):
            assert_equal(
                replay(step.new_tensor(k), state, gradient), optimizer.update(step.new_tensor(k), state, gradient)
            )


def test_derivatives_are_those_of_finite_differences():
    assert_derivatives_are_those_of_finite_differences(
        gi.AdamW(TorchRates(MAKERS["cosine"], lr=0.1, steps=30), eps=1e-3)
    )


def test_an_update_beyond_the_table_is_an_error():
    with pytest.raises(IndexError):
        TorchRates(MAKERS["step"], lr=0.1, steps=5)(torch.tensor(5.0, dtype=torch.float64))


def test_the_inverse_root_is_a_rate_as_before():
    assert float(InverseSqrt(0.1)(torch.tensor(3.0))) == pytest.approx(0.05)


class ToldTheLoss(schedulers.LRScheduler):
    def get_lr(self):
        return [group["lr"] for group in self.optimizer.param_groups]

    def step(self, loss=0.0, *, accuracy=None):
        super().step()


class NeedsTheAccuracy(ToldTheLoss):
    def step(self, accuracy=None):
        if accuracy is None and self.last_epoch >= 0:
            super().step()


class NeedsALoss(ToldTheLoss):
    def __init__(self, optimizer):
        self.optimizer, self.last_epoch = optimizer, 0

    def step(self, loss):
        raise AssertionError("it is not stepped")


def of_mine(optimizer):
    return schedulers.StepLR(torch.optim.SGD(Small().parameters(), lr=0.1), 3)


def plateau_in_chain(optimizer):
    return schedulers.ChainedScheduler([schedulers.StepLR(optimizer, 3), schedulers.ReduceLROnPlateau(optimizer)])


BAD = {
    "plateau": (
        lambda: TorchRates(schedulers.ReduceLROnPlateau, 0.1, 9),
        ValueError,
        r"make's ReduceLROnPlateau must be told metrics at every step, .*Read off the rates that it set",
    ),
    "plateau-in-chain": (
        lambda: TorchRates(plateau_in_chain, 0.1, 9),
        ValueError,
        r"ReduceLROnPlateau",
    ),
    "needs-a-loss": (lambda: TorchRates(NeedsALoss, 0.1, 9), ValueError, r"make's NeedsALoss must be told loss at"),
    "momentum-in-cycles": (
        lambda: TorchRates(lambda of: schedulers.OneCycleLR(of, 0.1, total_steps=9), 0.1, 9),
        ValueError,
        r"make's OneCycleLR sets momentum too, to 0.95 at update 0, .*cycle_momentum=False",
    ),
    "decay-in-time": (
        lambda: TorchRates(lambda of: DecaysTheDecay(of), 0.1, 9),
        ValueError,
        r"make's DecaysTheDecay sets weight_decay too, to 0.5 at update 1",
    ),
    "of-another": (lambda: TorchRates(of_mine, 0.1, 9), ValueError, r"make's StepLR belongs to another optimiser"),
    "a-scheduler": (
        lambda: TorchRates(of_mine(None), 0.1, 9),
        TypeError,
        r"make must be a function of an optimiser that returns its scheduler, such as lambda",
    ),
    "no-scheduler": (
        lambda: TorchRates(lambda of: 0.1, 0.1, 9),
        TypeError,
        r"make must return a scheduler of torch.optim.lr_scheduler, got float",
    ),
    "negative": (
        lambda: TorchRates(lambda of: schedulers.LambdaLR(of, lambda k: 2 - k), 0.1, 9),
        ValueError,
        r"make's LambdaLR sets a learning rate of -0.1 at update 3",
    ),
    "nan": (
        lambda: TorchRates(lambda of: schedulers.LambdaLR(of, lambda k: math.nan), 0.1, 9),
        ValueError,
        r"make's LambdaLR sets a learning rate of nan at update 0",
    ),
    "lr": (lambda: TorchRates(MAKERS["step"], 0.0, 9), ValueError, r"lr must be a finite number above 0, got 0.0"),
    "steps": (lambda: TorchRates(MAKERS["step"], 0.1, 0), ValueError, r"steps must be a whole number >= 1, got 0"),
    "half-steps": (lambda: TorchRates(MAKERS["step"], 0.1, 9.5), ValueError, r"steps must be a whole number >= 1"),
    "as-a-rate": (
        lambda: gi.SGD(of_mine(None)),
        ValueError,
        r"got a StepLR, bound to an optimiser of torch's: TorchRates makes a table of its rates",
    ),
}


class DecaysTheDecay(schedulers.LRScheduler):
    def get_lr(self):
        self.optimizer.param_groups[0]["weight_decay"] = 0.5 * self.last_epoch
        return self.base_lrs


@pytest.mark.parametrize(("make", "error", "message"), BAD.values(), ids=BAD)
def test_what_has_no_table_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("kind", [ToldTheLoss, NeedsTheAccuracy])
def test_a_scheduler_that_may_be_told_a_metric_but_need_not_is_taken(kind):
    assert TorchRates(kind, 0.1, 4).table.tolist() == [0.1] * 4
