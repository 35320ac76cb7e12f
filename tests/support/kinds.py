"""The kinds of games of which ``tests/properties`` tests each property: to add one is to add a function here.

A kind says how a game is played in two ways: as one of the library's, and in plain torch, which its cost, its
optimisers' moves and :mod:`support.unrolled` are. Numbers are of torch's default type, which :func:`made` sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, logsigmoid, one_hot, relu, softplus
from torch.nn.utils.parametrizations import spectral_norm

import gan_influence as gi
from support.games import Memory, Move, normal, textbook_adam, textbook_rmsprop, textbook_sgd
from support.unrolled import cycle_of, gan, gradient_penalty, named, squared_slopes

STEPS, N = 9, 12


class Rule(NamedTuple):
    """An optimiser three times: the library's, the textbook's of a module, and torch's of named parameters."""

    ours: Any
    move: Callable[[nn.Module], Move]
    torchs: Callable[[Any], torch.optim.Optimizer]
    buffers: Mapping[str, str] = {}  # as the textbook calls them: as torch does

    def state_dict(self, module: nn.Module, memory: Memory, taken: int) -> dict:
        """What torch's would hold, had it moved the module."""
        state = self.torchs(list(module.named_parameters())).state_dict()
        held = {theirs: named(module, memory[ours].detach()) for ours, theirs in self.buffers.items()}
        counted = {} if set(held) <= {"momentum_buffer"} else {"step": torch.tensor(float(taken))}
        groups = state["param_groups"]
        keys = [pair for group in groups for pair in zip(group["params"], group["param_names"], strict=True)]
        of_each = {k: {**{buffer: own[name] for buffer, own in held.items()}, **counted} for k, name in keys}
        return {**state, "state": of_each if held else {}}


def clipped(move: Move, norm: float) -> Move:
    """The move of a gradient that is cut to this length."""
    return lambda theta, g, memory, k: move(theta, g * (norm / (g.norm() + 1e-6)).clamp(max=1), memory, k)


def in_groups(of_weights: Move, of_biases: Move, module: nn.Module) -> Move:
    """One move of the weights and one of the biases."""
    is_bias = torch.cat([torch.full((p.numel(),), name.endswith("bias")) for name, p in module.named_parameters()])

    def move(theta: Tensor, g: Tensor, memory: Memory, k: int) -> Tensor:
        both = dict(memory), dict(memory)
        moved = [one(theta, g, own, k) for one, own in zip((of_weights, of_biases), both, strict=True)]
        memory.update({name: torch.where(is_bias, both[1][name], both[0][name]) for name in both[0]})
        return torch.where(is_bias, moved[1], moved[0])

    return move


def alike(ours: Any, textbook: Any, torchs: Any, buffers: Mapping[str, str], *lr: float, **settings: Any) -> Rule:
    """All three have the same names for the settings."""
    return Rule(
        ours(*lr, **settings),
        lambda module: textbook(*lr, **settings),
        lambda named: torchs(named, *lr, **settings),
        buffers,
    )


MOMENTUM = {"b": "momentum_buffer"}
MOMENTS = {"m": "exp_avg", "v": "exp_avg_sq"}
RULES = {
    "sgd": alike(gi.SGD, textbook_sgd, torch.optim.SGD, {}, 0.1),
    "momentum": alike(gi.SGD, textbook_sgd, torch.optim.SGD, MOMENTUM, 0.05, momentum=0.9),
    "rmsprop": alike(gi.RMSProp, textbook_rmsprop, torch.optim.RMSprop, {"v": "square_avg"}, 0.02, eps=1e-3),
    "adam": alike(gi.Adam, textbook_adam, torch.optim.Adam, MOMENTS, 0.02, betas=(0.5, 0.9), eps=1e-3),
    "clipped": Rule(
        gi.Clipped(gi.SGD(0.1, momentum=0.5), norm=0.3),
        lambda module: clipped(textbook_sgd(0.1, momentum=0.5), 0.3),
        lambda named: torch.optim.SGD(named, 0.1, momentum=0.5),
        MOMENTUM,
    ),
    "groups": Rule(
        gi.Groups(gi.SGD(0.1, momentum=0.5), {"*bias": gi.SGD(0.05, momentum=0.8)}),
        lambda module: in_groups(textbook_sgd(0.1, momentum=0.5), textbook_sgd(0.05, momentum=0.8), module),
        lambda named: torch.optim.SGD(
            [
                {"params": [pair for pair in named if not pair[0].endswith("bias")], "lr": 0.1, "momentum": 0.5},
                {"params": [pair for pair in named if pair[0].endswith("bias")], "lr": 0.05, "momentum": 0.8},
            ]
        ),
        MOMENTUM,
    ),
}


@dataclass(frozen=True)
class Kind:
    """A game, its data, and how it is trained and measured.

    Attributes:
        players: the modules, by name.
        of: their game.
        cost: the same in plain torch, ``(players, batch) -> (rows, rest)``.
        data, schedule, update: as for ``gi.train``.
        metric: a function of the players.
        rule: the name of all players' optimiser.
        looking: the players whose costs look at rows.
        decay: of the averaged players.
    """

    players: dict[str, nn.Module]
    of: Callable[[dict[str, nn.Module]], gi.Game]
    cost: Callable[[Any, Any], Any]
    data: Any
    schedule: Any
    metric: Callable[[Any], Tensor]
    rule: str = "sgd"
    update: Any = "simultaneous"
    looking: tuple[str, ...] = ("discriminator",)
    decay: dict[str, float] = field(default_factory=dict)

    @cached_property
    def game(self) -> gi.Game:
        return self.of(self.players)

    @cached_property
    def weights(self) -> Tensor:
        """Of the rows: all different, one of them 0."""
        weights = 1 + torch.linspace(-0.3, 0.4, N, dtype=torch.float64)
        weights[OUT] = 0
        return weights

    @property
    def cycle(self) -> list:
        return cycle_of(self.update, list(self.players))

    def batch(self, t: int) -> gi.Batch:
        """Of step ``t``: in a cycle an epoch counts the steps that look at rows."""
        if not isinstance(self.schedule, gi.Minibatches) or len(self.cycle) == 1:
            return self.schedule(t)
        looks = [any(name in self.looking for group in entry for name in group) for entry in self.cycle]
        return self.schedule.at(t, sum(looks[s % len(looks)] for s in range(t)))

    @property
    def options(self) -> dict[str, Any]:
        return {"update": self.update, "ema_decay": self.decay or None, "average_buffers": "copy"}

    def train(self, steps: int = STEPS, **changes: Any) -> gi.Trace:
        given = {"game": self.game, "data": self.data, "schedule": self.schedule, "weights": self.weights} | changes
        return gi.train(steps=steps, optimizer=RULES[self.rule].ours, **self.options, **given)


OUT = 4  # the row of weight 0
KINDS: dict[str, Callable[[], Kind]] = {}
LACKS: dict[str, dict[str, str]] = {}  # of a kind the properties that it has not, and why


def kind(**lacks: str) -> Callable[[Callable[[], Kind]], Callable[[], Kind]]:
    """A row of the list; ``lacks`` names the properties that it has not, and why. They are then expected to fail."""

    def add(function: Callable[[], Kind]) -> Callable[[], Kind]:
        name = function.__name__.replace("_", "-")
        KINDS[name], LACKS[name] = function, lacks
        return function

    return add


@contextmanager
def numbers(dtype: torch.dtype) -> Iterator[None]:
    """New tensors are of this type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def made(name: str, dtype: torch.dtype = torch.float64) -> Kind:
    """The kind of this name, with the same numbers in any type."""
    with torch.random.fork_rng(devices=[]), numbers(torch.float64):
        torch.manual_seed(0)
        exact = KINDS[name]()
    if dtype == torch.float64:
        return exact
    with torch.random.fork_rng(devices=[]), numbers(dtype):
        rounded = KINDS[name]()
    for player, module in rounded.players.items():
        module.load_state_dict(exact.players[player].state_dict())
    return rounded


@lru_cache
def known(name: str) -> tuple[Kind, gi.Trace]:
    """A kind and its run, which the properties share."""
    kind = made(name)
    return kind, kind.train()


# What kinds are made of


def drawn(seed: int, *shape: int) -> Tensor:
    return normal(seed, *shape).to(torch.get_default_dtype())


def net(*sizes: int, linear: Any = nn.Linear) -> nn.Sequential:
    layers = [layer for a, b in pairwise(sizes) for layer in (linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers[:-1])


def squares(*latents: Any) -> Callable[[Any], Tensor]:
    """The metric that most kinds have: the mean square of what is generated."""
    return lambda players: players.generator(*latents).square().mean()


def short(loss: str, **settings: Any) -> Callable[[dict[str, nn.Module]], gi.Game]:
    """The game of a generator and a discriminator in its short form."""
    return lambda players: gi.Game(*players.values(), loss=loss, **settings)


def own(cost: Callable[[Any, Any], Any], **settings: Any) -> Callable[[dict[str, nn.Module]], gi.Game]:
    """The game of a cost of one's own, which is plain torch itself."""
    return lambda players: gi.Game(
        players=players, cost=lambda players, batch: gi.Costs(*cost(players, batch)), **settings
    )


def batches(batch_size: int = 4, **draws: Any) -> gi.Minibatches:
    return gi.Minibatches(N, batch_size, seed=3, **({"latent_shape": (3,)} if "latents" not in draws else {}) | draws)


def pair(**changes: Any) -> dict[str, Any]:
    """Two small networks that play the non-saturating game on minibatches, but for what a row changes."""
    plain = {
        "players": {"generator": net(3, 4, 2), "discriminator": net(2, 4, 1)},
        "of": short("non_saturating"),
        "cost": NON_SATURATING,
        "data": drawn(1, N, 2),
        "schedule": batches(),
        "metric": squares(drawn(2, 6, 3)),
    }
    return plain | changes


MINIMAX = gan(lambda a: -logsigmoid(a), lambda a: -logsigmoid(-a), lambda a: logsigmoid(-a))
NON_SATURATING = gan(lambda a: softplus(-a), softplus, lambda a: softplus(-a))
HINGE = gan(lambda a: relu(1 - a), lambda a: relu(1 + a), lambda a: -a)
BY_PLACE = "AID scores a row whose cost depends on draws beside those of the run's last steps, by its place in the data"


# The kinds


def lqgan(**changes: Any) -> Kind:
    modules = gi.models.lqgan(scale=0.7, shift=-0.3, quadratic=-0.2, linear=0.4)
    given = {
        "players": {
            name: module.to(torch.get_default_dtype())
            for name, module in zip(("generator", "discriminator"), modules, strict=True)
        },
        "of": short("minimax", l2=(0.3, 0.2)),
        "cost": MINIMAX,
        "data": drawn(1, N, 1) + 1,
        "schedule": gi.FullBatch(drawn(2, 10, 1)),
        "metric": squares(drawn(3, 7, 1)),
    }
    return Kind(**given | changes)


@kind()
def lqgan_simultaneous() -> Kind:
    return lqgan()


@kind()
def lqgan_alternating() -> Kind:
    return lqgan(update="alternating")


@kind()
def lqgan_momentum_average() -> Kind:
    return lqgan(rule="momentum", decay={"generator": 0.8})


@kind()
def mlp_adam_in_turns() -> Kind:
    """An epoch's last batch has two rows."""
    return Kind(**pair(rule="adam", update="turns", of=short("non_saturating", l2=(0.3, 0.2)), schedule=batches(5)))


@kind()
def mlp_rmsprop_average() -> Kind:
    """Of both players."""
    decay = {"generator": 0.8, "discriminator": 0.6}
    return Kind(**pair(rule="rmsprop", update="alternating", decay=decay))


@kind()
def clipped_optimizer() -> Kind:
    return Kind(**pair(rule="clipped"))


@kind()
def groups_of_parameters() -> Kind:
    return Kind(**pair(rule="groups", update="alternating"))


@kind()
def supervised() -> Kind:
    def cost(players: Any, batch: Any) -> Any:
        inputs, labels = batch.rows
        return {"model": cross_entropy(players.model(inputs), labels, reduction="none")}, {}

    inputs, labels, fresh = drawn(1, N, 4), torch.arange(N) % 3, drawn(2, 5, 4)
    return Kind(
        players={"model": net(4, 3, 3)},
        of=lambda players: gi.Game(None, players["model"], loss="cross_entropy", l2=0.1),
        cost=cost,
        data=(inputs, labels),
        schedule=gi.Minibatches(N, 5, seed=3),
        metric=lambda players: cross_entropy(players.model(fresh), torch.arange(5) % 3),
        looking=("model",),
    )


@kind()
def metric_of_several_numbers() -> Kind:
    """A loss of each test point."""
    fresh = drawn(2, 3, 2)
    return Kind(**pair(metric=lambda players: softplus(-players.discriminator(fresh))[:, 0]))


@kind()
def conditional() -> Kind:
    """Rows are pairs, and so are latents."""

    def cost(players: Any, batch: Any) -> Any:
        (x, label), (z, drawn_label) = batch.rows, batch.latents
        real = players.discriminator(torch.cat([x, named_by(label, x)], 1))[:, 0]
        generated = players.generator(torch.cat([z, named_by(drawn_label, z)], 1))
        fake = players.discriminator(torch.cat([generated, named_by(drawn_label, z)], 1))[:, 0]
        rest = {"discriminator": softplus(fake).mean(), "generator": softplus(-fake).mean()}
        return {"discriminator": softplus(-real)}, rest

    def named_by(label: Tensor, like: Tensor) -> Tensor:
        return one_hot(label, 3).to(like)

    def latents(rng: Any, n: int) -> tuple:
        return rng.standard_normal((n, 2)), rng.integers(3, size=n)

    return Kind(
        **pair(
            players={"generator": net(5, 4, 2), "discriminator": net(5, 4, 1)},
            of=own(cost),
            cost=cost,
            data=(drawn(1, N, 2), torch.arange(N) % 3),
            schedule=batches(latents=latents),
            metric=squares(drawn(2, 6, 5)),
        )
    )


@kind()
def wgan_gp_critic_steps() -> Kind:
    return Kind(
        **pair(
            of=short("wasserstein", penalties=[gi.penalties.GradientPenalty(10.0)]),
            cost=gan(lambda a: -a, lambda a: a, lambda a: -a, gradient_penalty),
            schedule=batches(noise=lambda rng, n: rng.random(n)),
            rule="adam",
            update=["discriminator", "discriminator", "generator"],
        )
    )


@kind()
def r1_masked() -> Kind:
    def penalty(players: Any, batch: Any, generated: Tensor) -> tuple:
        return squared_slopes(players, batch.rows) / 2, 0

    return Kind(
        **pair(
            of=short("non_saturating", penalties=[gi.penalties.R1(1.0, masked=True)]),
            cost=gan(lambda a: softplus(-a), softplus, lambda a: softplus(-a), penalty),
        )
    )


@kind()
def r1_lazy() -> Kind:
    def penalty(players: Any, batch: Any, generated: Tensor) -> tuple:
        return 0, 3 * squared_slopes(players, batch.rows).mean() / 2 if batch.turn == 0 else 0

    return Kind(
        **pair(
            of=short("non_saturating", penalties=[gi.penalties.R1(1.0, every=3)]),
            cost=gan(lambda a: softplus(-a), softplus, lambda a: softplus(-a), penalty),
            update="alternating",
        )
    )


@kind()
def batch_norm_in_the_generator() -> Kind:
    generator = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))
    return Kind(**pair(players={"generator": generator, "discriminator": net(2, 4, 1)}, update="alternating"))


@kind()
def spectral_norm_hinge() -> Kind:
    critic = net(2, 4, 1, linear=lambda a, b: spectral_norm(nn.Linear(a, b)))
    players = {"generator": net(3, 4, 2), "discriminator": critic}
    return Kind(**pair(players=players, of=short("hinge"), cost=HINGE, update="alternating"))


@kind()
def bigan() -> Kind:
    def cost(players: Any, batch: Any) -> Any:
        code, generated = players.encoder(batch.rows), players.generator(batch.latents)
        real = players.discriminator(torch.cat([batch.rows, code], 1))[:, 0]
        fake = players.discriminator(torch.cat([generated, batch.latents], 1))[:, 0]
        rest = {"discriminator": softplus(fake).mean(), "generator": softplus(-fake).mean()}
        return {"discriminator": softplus(-real), "encoder": softplus(real)}, rest

    return Kind(
        **pair(
            players={"discriminator": net(5, 4, 1), "generator": net(3, 4, 2), "encoder": net(2, 3, 3)},
            of=own(cost),
            cost=cost,
            rule="adam",
            update=["discriminator", ("generator", "encoder")],
            looking=("discriminator", "encoder"),
        )
    )


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = net(2, 4, 4), net(2, 4, 2)

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        decoded = self.decoder(mean + (log_variance / 2).exp() * noise)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
        return (decoded - x).square().sum(1) / 2 + divergence


@kind(permuting_rows_permutes_scores_of_aid=BY_PLACE, both_copies_of_a_row_score_the_same_by_aid=BY_PLACE)
def vae() -> Kind:
    def cost(players: Any, batch: Any) -> Any:
        return {"model": players.model(batch.rows, batch.noise)}, {}

    fresh, none = drawn(2, 4, 2), torch.zeros(4, 2)
    return Kind(
        players={"model": Autoencoder()},
        of=own(cost),
        cost=cost,
        data=drawn(1, N, 2),
        schedule=gi.Minibatches(N, 5, seed=3, noise=lambda rng, n: rng.standard_normal((n, 2))),
        metric=lambda players: players.model(fresh, none).mean(),
        rule="adam",
        looking=("model",),
    )


@kind(permuting_rows_permutes_scores_of_aid=BY_PLACE, both_copies_of_a_row_score_the_same_by_aid=BY_PLACE)
def dropout() -> Kind:
    """On the rows, whose masks are noise."""
    kept = gi.nn.Dropout(0.2)

    def cost(players: Any, batch: Any) -> Any:
        real = players.discriminator(kept(batch.rows, batch.noise))[:, 0]
        fake = players.discriminator(players.generator(batch.latents))[:, 0]
        rest = {"discriminator": softplus(fake).mean(), "generator": softplus(-fake).mean()}
        return {"discriminator": softplus(-real)}, rest

    return Kind(**pair(of=own(cost), cost=cost, schedule=batches(noise=lambda rng, n: rng.random((n, 2)))))


@kind()
def convolutional() -> Kind:
    """Of the layers whose second derivatives are written out."""
    between = lambda: (gi.nn.Sigmoid(), gi.nn.ImageNorm(2))  # noqa: E731
    begin, end = gi.nn.Deconvolution(3, 2, 2), gi.nn.Deconvolution(2, 1, 2)
    generator = nn.Sequential(nn.Unflatten(1, (3, 1, 1)), begin, *between(), end, nn.Tanh())
    look = nn.Sequential(gi.nn.Convolution(1, 2, 2), *between(), nn.Flatten(), nn.Linear(8, 1))
    return Kind(
        **pair(players={"generator": generator, "discriminator": look}, data=drawn(1, N, 1, 3, 3).tanh(), rule="adam")
    )
