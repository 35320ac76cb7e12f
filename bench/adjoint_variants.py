"""The ways of computing one adjoint step, compared: ``python -m bench.adjoint_variants``.

An adjoint step gives ``J^T c`` and the per-row terms, the gradient of ``s(theta, w) = <c, v_w(theta)>``.

**Reverse over reverse** (ours): ``v_w`` by a backward pass, then a backward pass through both.
**Reverse over forward**: ``s = d/de [L_G(phi + e c_phi, psi) + L_D(phi, psi + e c_psi)]`` by tangents that go along
with the forward pass, by ``torch.func.jvp`` or by dual numbers, then a backward pass through both.

What the arithmetic allows. A layer ``y = x W`` takes one product forward and two backward, ``x^T y_bar`` for the
weights and ``y_bar W^T`` for the data: 3 a training step. Reverse over reverse takes these 3 and 6 more; without
the field itself, which a sweep over remembered states does not need, the weights' product of the first backward
pass falls away: 9 / 3 = 3.00 or 8 / 3 = 2.67. Reverse over forward takes 1 + 2 forward (``x W``; ``x C``, ``x' W``) and
5 backward: 2.67. A first layer needs no product for its data and a frozen argument none at all, so that for the FCGAN,
in multiplications a row (G has 10*32 + 32*32 + 32*2 = 1408 weights, D has 2*64 + 64*64 + 64 = 4288; without the first
layers 1088 and 4160; D is applied to real rows and to generated ones)::

    training step     forward 1408 + 2 * 4288;  L_G: data 4288 + 1088, weights 1408;
                      L_D: data 2 * 4160, weights 2 * 4288                                            33 664
    its double        x C and u W: 1408 + 1088 + 2 * (4288 + 4160) + 4288;  C and u back: 1088 + 4160 + 4288
                      and 1088 + 2 * 4160 + 4288;  forward pass back: 1408 + 2 * 4288 and 1088 + 4160 + 4288   66 432
    reverse over reverse, with the field                                                             100 096 = 2.97
    without it        less weights 1408 + 2 * 4288, and the data of second layers that only first layers'
                      weights need: 32 * 32, and 64 * 64 for real rows                                84 992 = 2.52

Variants of the game's own pass: real and generated rows as one batch; and one backward pass of D for both players,
whose cotangents of a generated row differ by a factor ``generator'(a) / fake'(a)``, undefined where ``fake'`` is 0.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import gan_influence as gi
from bench import fcgan
from gan_influence.adjoint import FieldGraph
from gan_influence.batch import Inputs
from gan_influence.game import Game
from gan_influence.players import Player
from gan_influence.replay.recorded import Recorded
from reports.shared.provenance import program, provenance
from reports.shared.store import ensure_writable, write_json

OURS, TRAINING = "reverse over reverse", "training step"
TOLERANCE = 1e-10
ROUNDS = {"smoke": 3, "standard": 25}
SLOT = 0.03  # seconds of calls of one variant, in every round
WIDE = 256

Variant = Callable[[Game, Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, ...]]
Step = Callable[..., tuple[Tensor, ...]]


def reverse_over_reverse(
    game: Game, theta: Tensor, c: Tensor, weights: Tensor, latents: Tensor, rows: Tensor
) -> tuple[Tensor, ...]:
    """Ours, where every state is remembered."""
    return FieldGraph(game, theta, _batch(weights, latents, rows)).both(c)


def with_the_field(
    game: Game, theta: Tensor, c: Tensor, weights: Tensor, latents: Tensor, rows: Tensor
) -> tuple[Tensor, ...]:
    """Ours, where the pass also leads to the next state."""
    field = FieldGraph(game, theta, _batch(weights, latents, rows))
    return (*field.both(c), field.value)


def one_batch(
    game: Game, theta: Tensor, c: Tensor, weights: Tensor, latents: Tensor, rows: Tensor
) -> tuple[Tensor, ...]:
    """Real and generated rows through the discriminator together."""
    phi, psi, weights = _leaves(game, theta, weights)
    logits = game.discriminator.at(psi)(torch.cat([rows, game.generator.at(phi)(latents)])).reshape(-1)
    real, fake = logits.split([len(rows), len(latents)])
    v_phi = _gradient(_mean(game.loss.generator(fake)), phi)
    v_psi = _gradient(_mean(weights * game.loss.real(real)) + _mean(game.loss.fake(fake)), psi)
    return _pulled_back((v_phi, v_psi), (phi, psi, weights), game.split(c))


def shared_cotangent(
    game: Game, theta: Tensor, c: Tensor, weights: Tensor, latents: Tensor, rows: Tensor, together: bool
) -> tuple[Tensor, ...]:
    """One backward pass of the discriminator, whose cotangents at generated rows are rescaled for the generator."""
    phi, psi, weights = _leaves(game, theta, weights)
    discriminator, loss = game.discriminator.at(psi), game.loss
    generated = game.generator.at(phi)(latents)
    if together:
        real, fake = discriminator(torch.cat([rows, generated])).reshape(-1).split([len(rows), len(latents)])
    else:
        real, fake = discriminator(rows).reshape(-1), discriminator(generated).reshape(-1)
    of_real = _gradient(_mean(weights * loss.real(real)), real)
    of_fake, of_generator = _gradient(_mean(loss.fake(fake)), fake), _gradient(_mean(loss.generator(fake)), fake)
    v_psi, at_rows = torch.autograd.grad((real, fake), (psi, generated), (of_real, of_fake), create_graph=True)
    factor = (of_generator / of_fake).view(-1, *[1] * (at_rows.ndim - 1))
    (v_phi,) = torch.autograd.grad(generated, phi, factor * at_rows, create_graph=True)
    return _pulled_back((v_phi, v_psi), (phi, psi, weights), game.split(c))


def functional_tangents(
    game: Game, theta: Tensor, c: Tensor, weights: Tensor, latents: Tensor, rows: Tensor
) -> tuple[Tensor, ...]:
    """Reverse over ``torch.func.jvp``; both terms share the generated rows."""
    phi, psi, weights = _leaves(game, theta, weights)
    c_phi, c_psi = game.split(c)
    generated, along = _jvp(lambda phi: game.generator.at(phi)(latents), phi, c_phi)

    def of_generator(generated: Tensor) -> Tensor:
        return _mean(game.loss.generator(game.discriminator.at(psi)(generated).reshape(-1)))

    def of_discriminator(psi: Tensor) -> Tensor:
        real, fake = (game.discriminator.at(psi)(batch).reshape(-1) for batch in (rows, generated))
        return _mean(weights * game.loss.real(real)) + _mean(game.loss.fake(fake))

    s = _jvp(of_generator, generated, along)[1] + _jvp(of_discriminator, psi, c_psi)[1]
    return _pulled_back((s,), (phi, psi, weights), None)


def dual_numbers(
    game: Game, theta: Tensor, c: Tensor, weights: Tensor, latents: Tensor, rows: Tensor
) -> tuple[Tensor, ...]:
    """Reverse over ``torch.autograd.forward_ad``. Views of a dual vector cannot be recorded: each parameter is one."""
    weights = weights.detach().requires_grad_()
    phi, psi = ([part.clone().requires_grad_() for part in player] for player in _parts(game, theta))
    c_phi, c_psi = _parts(game, c)
    with forward_ad.dual_level():
        dual_phi, dual_psi = _duals(phi, c_phi), _duals(psi, c_psi)
        generated = _apply(game.generator, dual_phi, latents)
        s_phi = _mean(game.loss.generator(_apply(game.discriminator, psi, generated).reshape(-1)))
        constant = forward_ad.unpack_dual(generated).primal
        real, fake = (_apply(game.discriminator, dual_psi, batch).reshape(-1) for batch in (rows, constant))
        s_psi = _mean(weights * game.loss.real(real)) + _mean(game.loss.fake(fake))
        s = forward_ad.unpack_dual(s_phi).tangent + forward_ad.unpack_dual(s_psi).tangent
    return _pulled_back((s,), (*phi, *psi, weights), None)


def _jvp(function: Callable[[Tensor], Tensor], at: Tensor, along: Tensor) -> tuple[Tensor, Tensor]:
    value, tangent = torch.func.jvp(function, (at,), (along,))[:2]
    return value, tangent


def _duals(parts: list[Tensor], directions: list[Tensor]) -> list[Tensor]:
    return [forward_ad.make_dual(part, along.clone()) for part, along in zip(parts, directions, strict=True)]


def _leaves(game: Game, theta: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    phi, psi = game.leaves(theta)
    return phi, psi, weights.detach().requires_grad_()


def _apply(player: Player, parts: list[Tensor], inputs: Tensor) -> Tensor:
    return functional_call(player.module, dict(zip(player.names, parts, strict=True)), (inputs,))


def _parts(game: Game, theta: Tensor) -> list[list[Tensor]]:
    of_players = zip(game.players.values(), game.split(theta), strict=True)
    return [list(player.unflatten(part).values()) for player, part in of_players]


def _batch(weights: Tensor, latents: Tensor, rows: Tensor) -> Inputs:
    return Inputs(rows, latents, None, weights, weights.new_zeros((), dtype=torch.float64))


def _mean(costs: Tensor) -> Tensor:
    return costs.sum() / len(costs)


def _gradient(cost: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(cost, leaf, create_graph=True)[0]


def _pulled_back(
    outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...], c: tuple[Tensor, ...] | None
) -> tuple[Tensor, Tensor]:
    *parameters, rows = torch.autograd.grad(outputs, inputs, c, materialize_grads=True)
    return torch.cat([part.reshape(-1) for part in parameters]), rows


VARIANTS: dict[str, Variant] = {
    OURS: reverse_over_reverse,
    "reverse over reverse, with the field": with_the_field,
    "reverse over reverse, one batch": one_batch,
    "reverse over reverse, shared cotangent": partial(shared_cotangent, together=False),
    "reverse over reverse, shared cotangent, one batch": partial(shared_cotangent, together=True),
    "reverse over forward, torch.func.jvp": functional_tangents,
    "reverse over forward, dual numbers": dual_numbers,
}


class Problem(NamedTuple):
    """A game at one theta, and what a step there takes: theta, cotangent, weights, latents, rows."""

    game: Game
    inputs: tuple[Tensor, ...]


def _problem(game: Game, data: Tensor, schedule: gi.FullBatch | gi.Minibatches) -> Problem:
    trace = gi.train(game, data, schedule, 10, gi.SGD(lr=1e-3))
    theta = trace.theta()
    inputs = trace.inputs(10)
    c = torch.randn(theta.shape, generator=torch.Generator().manual_seed(0), dtype=theta.dtype)
    return Problem(trace.game, (theta, c, inputs.weights, inputs.latents, inputs.rows))


def _lqgan() -> Problem:
    normal = gi.datasets.normal_1d
    return _problem(gi.Game(*gi.models.lqgan(seed=0)), normal(1000, seed=0), gi.FullBatch(normal(1000, mean=0, seed=1)))


def _fcgan(hidden: tuple[int, int]) -> Problem:
    players = gi.models.fcgan(form="code", hidden=hidden, seed=0)
    schedule = gi.Minibatches(fcgan.ROWS, fcgan.BATCH, fcgan.LATENT, seed=0)
    return _problem(gi.Game(*players, loss="non_saturating"), gi.datasets.normal_2d(fcgan.ROWS, seed=0), schedule)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "lqgan": _lqgan,
    "fcgan": partial(_fcgan, (32, 64)),
    f"fcgan-{WIDE}": partial(_fcgan, (WIDE, WIDE)),
}


def training_step(
    game: Game, theta: Tensor, c: Tensor, weights: Tensor, latents: Tensor, rows: Tensor
) -> tuple[Tensor, ...]:
    """What all others are measured by."""
    field, _ = game.field(game.leaves(theta), _batch(weights, latents, rows))
    return (theta - 1e-3 * torch.cat(field),)


class Contender(NamedTuple):
    """A step, ready to be called; or not, with the reason why."""

    variant: str
    way: str
    call: Step | None
    note: str = ""


def _recorded(step: Step, inputs: tuple[Tensor, ...]) -> tuple[Step | None, str]:
    replay = Recorded(step)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(65):
            replay(*inputs)
    refused = [str(one.message) for one in caught if "called as it is" in str(one.message)]
    return (None, refused[0].splitlines()[0][:200]) if refused else (replay, "")


def _compiled(step: Step, inputs: tuple[Tensor, ...]) -> tuple[Step | None, str]:
    """The traced step compiled afresh by inductor, for as many threads as there are now."""
    from torch._inductor.utils import fresh_cache
    from torch.fx.experimental.proxy_tensor import make_fx

    options: dict[str, Any] = {"cpp.threads": torch.get_num_threads(), "fx_graph_cache": False}
    begun = time.perf_counter()
    traced = make_fx(lambda *given: step(*given), tracing_mode="fake", _allow_non_fake_inputs=True)(*inputs)
    compiled = torch.no_grad()(torch.compile(traced, fullgraph=True, options=options))
    try:
        with fresh_cache():
            compiled(*inputs)
    except RuntimeError as error:  # no C++ compiler
        return None, str(error).splitlines()[0][:200]
    return compiled, f"compiled in {time.perf_counter() - begun:.0f} s"


def _contenders(problem: Problem) -> list[Contender]:
    contenders = []
    for name, variant in {TRAINING: training_step, **VARIANTS}.items():
        step = partial(variant, problem.game)
        contenders.append(Contender(name, "eager", step))
        contenders.append(Contender(name, "recorded", *_recorded(step, problem.inputs)))
        if name in (TRAINING, OURS):
            contenders.append(Contender(name, "compiled", *_compiled(step, problem.inputs)))
    return contenders


def _error(contender: Contender, problem: Problem) -> float | None:
    """The largest error, relative to the largest number, in ``J^T c`` and the per-row terms.

    Raises:
        RuntimeError: it is too large for rounding: this is no adjoint step.
    """
    if contender.call is None or contender.variant == TRAINING:
        return None
    expected = reverse_over_reverse(problem.game, *problem.inputs)
    outputs = contender.call(*problem.inputs)[: len(expected)]
    error = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(outputs, expected, strict=True))
    if not error < TOLERANCE:
        raise RuntimeError(f"{contender.variant}, {contender.way}, is wrong by {error:.1e}")
    return error


def _products(contender: Contender, inputs: tuple[Tensor, ...]) -> float | None:
    """Multiplications in matrix products, per row of the batch."""
    if contender.call is None or contender.way == "compiled":
        return None
    with FlopCounterMode(display=False) as counter:
        contender.call(*inputs)
    return counter.get_total_flops() / 2 / len(inputs[-1])


def compare(game: str, rounds: int) -> list[dict[str, Any]]:
    """Every variant on one game, after checking that all compute the same."""
    torch._dynamo.reset()
    problem = PROBLEMS[game]()
    contenders = _contenders(problem)
    errors = [_error(one, problem) for one in contenders]
    seconds = _times(contenders, problem.inputs, rounds)
    training, ours = seconds[TRAINING, "recorded"], seconds[OURS, "recorded"]
    results = []
    for one, error in zip(contenders, errors, strict=True):
        row: dict[str, Any] = {"game": game, "threads": torch.get_num_threads(), "variant": one.variant, "way": one.way}
        if one.call is not None:
            times = seconds[one.variant, one.way]
            row["microseconds"] = round(1e6 * float(np.median(times)), 1)
            row["per_training_step"] = _summary(times / training)
            row["per_ours"] = _summary(times / ours)
        row |= {"products_a_row": _products(one, problem.inputs), "error": error, "note": one.note}
        if one.call is not None and one.way == "recorded" and one.variant in (TRAINING, OURS):
            row["profile"] = _profile(one.call, problem.inputs)
        results.append(row)
    return results


def _times(contenders: list[Contender], inputs: tuple[Tensor, ...], rounds: int) -> dict[tuple[str, str], np.ndarray]:
    """Seconds a call in every round, in which all take turns; with one thread, seconds of the processor."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds = defaultdict(list)
    for _ in tqdm(range(rounds), unit="round", leave=False):
        for variant, way, call, _note in contenders:
            if call is not None:
                call(*inputs)
                begun, calls = clock(), 0
                while clock() - begun < SLOT:
                    call(*inputs)
                    calls += 1
                seconds[variant, way].append((clock() - begun) / calls)
    return {key: np.array(times) for key, times in seconds.items()}


def _summary(ratios: np.ndarray) -> dict[str, float]:
    low, median, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    return {"median": round(float(median), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


_VIEWS = "t transpose as_strided view expand slice select unsqueeze squeeze split_with_sizes narrow detach"
_KINDS = {
    "products": ["aten::mm", "aten::bmm", "aten::addmm", "aten::mv", "aten::dot"],
    "views": [f"aten::{name}" for name in _VIEWS.split()],
}


def _profile(call: Step, inputs: tuple[Tensor, ...], calls: int = 50) -> dict[str, float]:
    """Microseconds a call spends in operations of each kind, by torch's profiler, which adds about one to each."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(calls):
            call(*inputs)
    spent: dict[str, float] = defaultdict(float)
    for event in profiled.key_averages():
        kind = next((kind for kind, names in _KINDS.items() if event.key in names), "elementwise, sums and copies")
        spent[kind] += event.self_cpu_time_total / calls
    return {kind: round(time, 1) for kind, time in spent.items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.adjoint_variants",
        description="Compare ways of computing an adjoint step, checked against each other, and write "
        "adjoint-variants.json: ratios of times to the recorded training step and to ours, quartiles over rounds.",
    )
    parser.add_argument("--preset", choices=tuple(ROUNDS), default="standard", help="smoke: 3 rounds; standard: 25")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), metavar="DIR", help="where to write")
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=sorted({1, torch.get_num_threads()}),
        metavar="N",
        help="how many threads to compute with, one comparison each; by default 1, and one a core",
    )
    arguments = parser.parse_args()
    if min(arguments.threads) < 1:
        parser.error("--threads: must be whole numbers >= 1")
    ensure_writable(arguments.out)
    load = round(os.getloadavg()[0], 1)  # processes that run or wait besides this one
    results: list[dict[str, Any]] = []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for game in PROBLEMS:
            rows = compare(game, ROUNDS[arguments.preset])
            results += rows
            _show(rows)
    record = {
        **provenance(program("bench.adjoint_variants"), "cpu"),
        "load": load,
        "wait_policy": os.environ.get("OMP_WAIT_POLICY"),
    }
    path = arguments.out / "adjoint-variants.json"
    write_json(path, {"provenance": record, "preset": arguments.preset, "tolerance": TOLERANCE, "variants": results})
    print(f"results: {path.resolve()}")
    return 0


def _show(rows: list[dict[str, Any]]) -> None:
    print(f"\n{rows[0]['game']}, {rows[0]['threads']} threads: microseconds, per training step, per ours")
    for row in rows:
        name = f"{row['variant']}, {row['way']}"
        if "microseconds" not in row:
            print(f"  {name:62} {row['note']}")
            continue
        ratios = (row[key] for key in ("per_training_step", "per_ours"))
        shown = "   ".join(f"{one['median']:6.2f} [{one['low']:.2f}, {one['high']:.2f}]" for one in ratios)
        print(f"  {name:62} {row['microseconds']:8.0f}   {shown}   {row['note']}")


if __name__ == "__main__":
    sys.exit(main())
