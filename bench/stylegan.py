"""``python -m bench.stylegan``: what fine-tuning a StyleGAN through adapters, and scoring it, takes in time and memory.

``--estimate`` reckons instead of measuring: products of a step, counted on the CPU, and bytes of the run's states.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import gan_influence as gi
from reports.shared.provenance import program, provenance, resolve_device
from reports.shared.store import ensure_writable, write_json
from reports.shared.stylegan import BATCH, OPTIMIZERS, adapted, evaluation_latents, fine_tuned, game_of

ROWS = 32  # noise: times do not depend on what images show
SWEEP = 2.6  # a sweep's step over a training step, as measured
MODELS: dict[str, Any] = {"stylegan": gi.models.stylegan, "stylegan2": gi.models.stylegan2}
MIB = 2**20


class MeanOfGenerated:
    """A metric that costs next to nothing."""

    def __init__(self, latents: Any):
        self.latents = latents

    def value(self, players: gi.Players) -> Tensor:
        return players.generator(self.latents).mean()


def main() -> int:
    arguments = _parser().parse_args()
    ensure_writable(arguments.out)
    device = resolve_device(arguments.device)
    game, metric, images = problem(arguments)
    record = {
        "adapters": {name: player.size for name, player in game.players.items()},
        "states": _states(game, arguments.steps),
        **(_counted(game, metric, images) if arguments.estimate else _timed(game, metric, images, device)),
    }
    settings = {name: getattr(arguments, name) for name in ("model", "resolution", "rank", "channels", "steps")}
    for name, value in {**settings, **record}.items():
        print(f"{name:24} {value}")
    where = provenance(program("bench.stylegan"), device)
    write_json(arguments.out / "stylegan.json", {"provenance": where, "settings": settings, **record})
    return 0


def problem(arguments: argparse.Namespace) -> tuple[gi.Game, MeanOfGenerated, Tensor]:
    generator, discriminator = MODELS[arguments.model](arguments.resolution, channels=arguments.channels, seed=0)
    generator.mapping.requires_grad_(False)
    game = game_of(*adapted(generator, discriminator, arguments.rank))
    size = (ROWS, 3, arguments.resolution, arguments.resolution)
    images = torch.randint(256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return game, MeanOfGenerated(evaluation_latents(generator, 1, 0)), images


def _states(game: gi.Game, steps: int) -> dict[str, float]:
    """MiB of a run of so many steps: parameters, both moments of Adam, the average, as full memory and checkpoints."""
    rows = 2 + OPTIMIZERS["code"].buffers  # the parameters, their average, what Adam remembers
    size = rows * game.size * 4 / MIB
    kept = {"one": size, "full": size * (steps + 1), "checkpoint": 2 * size * math.isqrt(steps)}
    return {name: round(value, 1) for name, value in kept.items()}


def _counted(game: gi.Game, metric: MeanOfGenerated, images: Tensor) -> dict[str, Any]:
    """Products of a step, from those of one call of each player: 4 of G's and 15 of D's.

    A backward pass costs two forward ones. D's turn: G forward; D forward and backward at real and at generated images;
    R1, whose slope is one backward pass and differentiating it twice the forward and backward passes again. G's turn:
    G and D forward and backward.
    """
    generator, discriminator = (game.players[name].module for name in ("generator", "discriminator"))
    with torch.no_grad():
        calls = partial(generator, metric.latents), partial(discriminator, images[:1].float())
        of_generator, of_discriminator = (BATCH * _products(call) for call in calls)
    step = 4 * of_generator + 15 * of_discriminator
    return {
        "training_step_tera_products": round(step / 1e12, 4),
        "sweep_step_tera_products": round(SWEEP * step / 1e12, 4),
    }


def _products(call: Any) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 2


def _timed(game: gi.Game, metric: MeanOfGenerated, images: Tensor, device: str) -> dict[str, Any]:
    """Seconds of steps without what comes once, not recorded; and the most memory that each took."""
    few, many = 2, 6
    trained, memory_of_training = {}, 0.0
    for steps in (few, many):
        train = partial(fine_tuned, game, images, steps, device=device)
        trained[steps], memory_of_training, trace = _watched(train, device)
    swept, memory_of_sweep = {}, 0.0
    for last in (few, many):
        swept[last], memory_of_sweep, _ = _watched(partial(gi.itd, trace, metric, last=last), device)
    step, sweep = ((of[many] - of[few]) / (many - few) for of in (trained, swept))
    return {
        "training_step_seconds": round(step, 4),
        "sweep_step_seconds": round(sweep, 4),
        "sweep / training": round(sweep / step, 2),
        "training_memory_mib": round(memory_of_training),
        "sweep_memory_mib": round(memory_of_sweep),
    }


def _watched(work: Any, device: str) -> tuple[float, float, Any]:
    """Seconds, MiB at the most (of a GPU; of a CPU what the process has at the end), and what the work gave."""
    on_gpu = device == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    begun = time.perf_counter()
    found = work()
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begun
    memory = torch.cuda.max_memory_allocated() if on_gpu else psutil.Process().memory_info().rss
    return seconds, memory / MIB, found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.stylegan",
        description="Time and memory of fine-tuning and scoring a StyleGAN through adapters (batch 8, R1, Adam).",
    )
    parser.add_argument("--model", choices=tuple(MODELS), default="stylegan", help="which (default: %(default)s)")
    parser.add_argument("--resolution", type=int, default=256, help="pixels (default: %(default)s)")
    parser.add_argument("--rank", type=int, default=16, help="of the adapters (default: %(default)s)")
    parser.add_argument("--channels", type=int, default=None, help="at most (default: the published ones)")
    parser.add_argument(
        "--steps", type=int, default=20_850, help="of the run whose memory is reckoned (default: %(default)s)"
    )
    parser.add_argument("--estimate", action="store_true", help="count products instead of timing, on the CPU")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/bench"), metavar="DIR", help="where to write (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
