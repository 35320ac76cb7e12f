"""Ratios on the DCGAN of TNNLS Table IV: 28x28 images in minibatches of 100, non-saturating loss, l2, float32.

The images are noise: times do not depend on what they show. Steps are timed as replayed, recorded beforehand.

What backs one thread in each worker process of ``reports``: the times of a training step with one thread over those
with 2 and 4. Where such a ratio is below the number of threads, as many processes of one thread each do more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

import gan_influence as gi
from bench.metrics import mean_logit
from bench.published_approach import PublishedApproach, with_torch_layers
from bench.ratios import Call, Case
from gan_influence.metrics.metric import Measurable
from gan_influence.replay import recorded

__all__ = ["ADAM", "METRIC", "METRICS", "R1", "Size", "cases", "recorded_at_once", "trained"]

ROWS, BATCH, LATENT, LR, L2 = 1000, 100, (32,), 1e-3, 1e-3
REMOVALS = 3
THREADS = (2, 4)
ADAM, R1 = gi.Adam(LR), (gi.penalties.R1(10.0, masked=False),)  # a penalty at every step


class Size(NamedTuple):
    """Of a DCGAN."""

    channels: int
    pixels: int = 28

    def __str__(self) -> str:
        return f"dcgan-{self.channels}" + (f" of {self.pixels} pixels" if self.pixels != 28 else "")


STEPS = {Size(2, 8): 5, Size(8): 4, Size(32): 2}  # timed as one
SIZES = {"smoke": (Size(2, 8),), "standard": (Size(8), Size(32))}


def _generated(players: gi.Players) -> Float[Tensor, "1 1 size size"]:
    return players.generate(torch.ones(1, *LATENT, dtype=players.parameters["generator"].dtype))


class MeanOfGenerated:
    """A metric that costs next to nothing: what is measured is training."""

    def value(self, players: gi.Players) -> Float[Tensor, ""]:
        return _generated(players).mean()


class SquareOfGenerated:
    """One more."""

    def value(self, players: gi.Players) -> Float[Tensor, ""]:
        return _generated(players).square().mean()


METRIC = MeanOfGenerated()
METRICS: list[Measurable] = [METRIC, SquareOfGenerated(), mean_logit(LATENT)]


@contextmanager
def recorded_at_once() -> Iterator[None]:
    """Steps are recorded when they are first taken, not after 64 of them, which are minutes here."""
    usual, recorded._EAGER_CALLS = recorded._EAGER_CALLS, 1
    try:
        yield
    finally:
        recorded._EAGER_CALLS = usual


def trained(
    device: str,
    size: Size,
    steps: int,
    memory: str = "full",
    torch_layers: bool = False,
    dtype: torch.dtype = torch.float32,
    penalties: Sequence[gi.penalties.Penalty] = (),
    optimizer: gi.Optimizer | None = None,
    batch_norm: bool = False,
    **options: Any,
) -> gi.Trace:
    """A run on noise, by default of plain gradient descent; with ``batch_norm`` in place of G's layer normalisation.

    Other options are those of :func:`gan_influence.train`.
    """
    images = 2 * torch.rand(ROWS, 1, size.pixels, size.pixels, generator=torch.Generator().manual_seed(0)) - 1
    generator, discriminator = gi.models.dcgan(*size, dtype=dtype, seed=0)
    if torch_layers:
        generator, discriminator = with_torch_layers(generator), with_torch_layers(discriminator)
    if batch_norm:
        generator, options = _with_batch_norm(generator), {"average_buffers": "copy", **options}
    game = gi.Game(generator, discriminator, loss="non_saturating", l2=(L2, L2), penalties=penalties)
    data, schedule = images.to(dtype), gi.Minibatches(ROWS, BATCH, LATENT, seed=0)
    optimizer = optimizer or gi.SGD(LR)
    return gi.train(game, data, schedule, steps, optimizer, memory=memory, device=device, **options)


def _with_batch_norm(player: nn.Sequential) -> nn.Sequential:
    """Its running statistics are buffers, which training changes and the sweep replays."""
    return nn.Sequential(
        *(
            nn.BatchNorm2d(layer.num_channels, dtype=layer.weight.dtype) if isinstance(layer, nn.GroupNorm) else layer
            for layer in player
        )
    )


@cache
def _recorded(device: str, size: Size, **options: Any) -> gi.Trace:
    """A run whose training and sweep steps are recorded."""
    with recorded_at_once():
        trace = trained(device, size, STEPS[size], **options)
        gi.itd(trace, METRIC)
    return trace


def adjoint_against_training_step(device: str, size: Size, **options: Any) -> tuple[Call, Call, float]:
    """The sweep against the training run that it differentiates."""
    trace = _recorded(device, size, **options)
    return lambda: gi.itd(trace, METRIC), lambda: gi.retrain(trace, []), 1.0


def several_metrics_against_one(device: str, size: Size) -> tuple[Call, Call, float]:
    """Three metrics in one sweep against one of them."""
    trace = _recorded(device, size)
    with recorded_at_once():
        gi.itd(trace, METRICS)
    return lambda: gi.itd(trace, METRICS), lambda: gi.itd(trace, METRIC), 1.0


def published_against_adjoint_step(device: str, size: Size) -> tuple[Call, Call, float]:
    """The sweep as the published code would do it against ours, after checking that both compute the same."""
    trace = _recorded(device, size)
    published = PublishedApproach(trace, LR)
    published.check()
    return lambda: published.scores(METRIC), lambda: gi.itd(trace, METRIC), 1.0


def torch_layers_against_ours_in_training(device: str, size: Size) -> tuple[Call, Call, float]:
    """A training step of ``nn.Conv2d``, ``nn.ConvTranspose2d`` and ``nn.GroupNorm``, recorded as ours is."""
    plain, trace = _recorded(device, size, torch_layers=True), _recorded(device, size)
    return lambda: gi.retrain(plain, []), lambda: gi.retrain(trace, []), 1.0


def torch_layers_against_ours_in_sweep(device: str, size: Size) -> tuple[Call, Call, float]:
    """The same of the sweep."""
    plain, trace = _recorded(device, size, torch_layers=True), _recorded(device, size)
    return lambda: gi.itd(plain, METRIC), lambda: gi.itd(trace, METRIC), 1.0


def counterfactual_against_training_step(device: str, size: Size) -> tuple[Call, Call, float]:
    """Retraining without each of a few rows, per step and removal: one after another, or as a batch on a GPU."""
    trace = _recorded(device, size)
    first = trace.inputs(0).indices
    assert first is not None
    removals = [[row] for row in first[:REMOVALS].tolist()]  # their retrainings take all steps
    with recorded_at_once():
        gi.counterfactual(trace, METRIC, removals)
    return lambda: gi.counterfactual(trace, METRIC, removals), lambda: gi.retrain(trace, []), 1 / REMOVALS


def one_thread_against_several(device: str, size: Size, threads: int) -> tuple[Call, Call, float]:
    """How many times as fast a training step is with several threads."""
    trace = _recorded(device, size)
    retrain = partial(gi.retrain, trace, [], last=1)
    return partial(_with_threads, 1, retrain), partial(_with_threads, threads, retrain), 1.0


def _with_threads(threads: int, call: Call) -> None:
    usual = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        call()
    finally:
        torch.set_num_threads(usual)


def cases(preset: str, device: str) -> tuple[Case, ...]:
    """The ratios; at ``smoke`` on small images, which have no targets."""
    return tuple(case for size in SIZES[preset] for case in _cases_of(size, device))


def _cases_of(size: Size, device: str) -> list[Case]:
    def case(name: str, limit: tuple[str, float] | None, prepare: Callable[..., tuple[Call, Call, float]]) -> Case:
        return Case(name, str(size), limit if size.pixels == 28 else None, partial(prepare, size=size))

    found = [
        case("itd_step / training_step", ("<=", 3.0 if device == "cpu" else 2.5), adjoint_against_training_step),
        case("published_approach / itd_step", (">=", 1.6), published_against_adjoint_step),
        case("counterfactual_step_of_a_removal / training_step", None, counterfactual_against_training_step),
    ]
    if size != Size(32):  # what a penalty, an optimiser and a normalisation cost shows at the small sizes
        with_adam = partial(adjoint_against_training_step, optimizer=ADAM)
        found += [
            case("itd_step_with_adam / training_step_with_adam", ("<=", 3.0), with_adam),
            case("itd_step_with_r1 / training_step_with_r1", ("<=", 3.2), partial(with_adam, penalties=R1)),
            case(
                "itd_step_with_batch_norm / training_step_with_batch_norm",
                ("<=", 3.2),
                partial(adjoint_against_training_step, batch_norm=True),
            ),
            case("itd_of_3_metrics / itd_of_1_metric", ("<=", 3.0), several_metrics_against_one),
        ]
    if size.pixels == 28:  # two recordings more
        found += [
            case("itd_step_with_torch_layers / itd_step", None, torch_layers_against_ours_in_sweep),
            case("training_step_with_torch_layers / training_step", None, torch_layers_against_ours_in_training),
        ]
    if device == "cpu":
        for threads in THREADS:
            name = f"training_step_with_1_thread / training_step_with_{threads}_threads"
            found.append(case(name, None, partial(one_thread_against_several, threads=threads)))
    return found
