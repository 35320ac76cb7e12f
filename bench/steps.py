"""A process that trains and sweeps on request, on whatever ``gan_influence`` it is given: what ``bench.against`` asks.

It leans on the names that every revision has, since one of them may be an old one. Run it as a file, so that no other
module of this tree is imported. It prints the folder of its ``gan_influence`` once all is prepared; then for each line
``GAME STEP`` it takes it prints the seconds that passed, and those of the processor.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import gan_influence as gi

# How many steps a run has, and how many final ones of them are timed: a step is recorded after 64.
LENGTHS = {
    "smoke": {"lqgan": (12, 12), "fcgan": (12, 12), "dcgan-8": (1, 1)},
    "standard": {"lqgan": (600, 500), "fcgan": (400, 300), "dcgan-8": (80, 5)},
}
STEPS = ("training_step", "sweep_step")
WARM_UPS = 2


def _normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _lqgan(steps: int) -> tuple[gi.Trace, Any]:
    game, schedule = gi.Game(*gi.models.lqgan(seed=0)), gi.FullBatch(_normal(1000, 1, seed=1))
    trace = gi.train(game, 1 + _normal(1000, 1, seed=0), schedule, steps, gi.SGD(lr=0.01))
    return trace, gi.metrics.AverageLogLikelihood(1 + _normal(1000, 1, seed=2), _normal(1000, 1, seed=3))


def _fcgan(steps: int) -> tuple[gi.Trace, Any]:
    game = gi.Game(*gi.models.fcgan(form="code", seed=0), loss="non_saturating")
    schedule = gi.Minibatches(10_000, 100, (10,), seed=0)
    trace = gi.train(game, 1 + _normal(10_000, 2, seed=0), schedule, steps, gi.SGD(lr=1e-3))
    return trace, gi.metrics.AverageLogLikelihood(1 + _normal(200, 2, seed=2), _normal(200, 10, seed=3))


def _dcgan(steps: int) -> tuple[gi.Trace, Any]:
    images = _normal(1000, 1, 28, 28, seed=0, dtype=torch.float32).tanh()
    game = gi.Game(*gi.models.dcgan(8, seed=0), loss="non_saturating", l2=(1e-3, 1e-3))
    trace = gi.train(game, images, gi.Minibatches(1000, 100, (32,), seed=0), steps, gi.SGD(lr=1e-3))
    return trace, gi.metrics.DiscriminatorLoss(images[:2], _normal(2, 32, seed=3, dtype=torch.float32))


GAMES = {"lqgan": _lqgan, "fcgan": _fcgan, "dcgan-8": _dcgan}


def _prepared(game: str, steps: int, last: int) -> dict[str, Callable[[], object]]:
    """Both calls, each recorded."""
    trace, metric = GAMES[game](steps)
    calls: dict[str, Callable[[int], object]] = {
        "training_step": lambda last: gi.retrain(trace, [], last=last),
        "sweep_step": lambda last: gi.itd(trace, metric, last=last),
    }
    for call in calls.values():
        for length in (steps, *[last] * WARM_UPS):
            call(length)
    return {step: partial(call, last) for step, call in calls.items()}


def main(preset: str, threads: str) -> None:
    torch.set_num_threads(int(threads))
    calls = {game: _prepared(game, *lengths) for game, lengths in LENGTHS[preset].items()}
    print(Path(gi.__file__).parents[1], flush=True)
    for line in sys.stdin:
        game, step = line.split()
        begun = time.perf_counter(), time.process_time()
        calls[game][step]()
        print(json.dumps([time.perf_counter() - begun[0], time.process_time() - begun[1]]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
