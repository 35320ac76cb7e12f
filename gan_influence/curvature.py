"""AID's operator: the derivative J of the field at the end of a run, of an epoch's batches or of one after another."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import cached_property, partial, reduce
from operator import add

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gan_influence import trees
from gan_influence.adjoint import FieldGraph, row_terms
from gan_influence.batch import Inputs
from gan_influence.finite import check_product
from gan_influence.game import Game
from gan_influence.replay.recorded import Recorded
from gan_influence.stacking import stacks
from gan_influence.state import Held, expanded
from gan_influence.trace import Trace

__all__ = ["Continuation", "Field", "ForwardGraph", "ShiftedField"]


class Continuation:
    """A run's schedule past its end: the fresh batches of AID (TNNLS VI-A2), and the epoch that stands for all rows."""

    def __init__(self, trace: Trace):
        self.trace = trace

    def check(self, terms: int) -> None:
        """Does the schedule go on for a series of so many terms?

        Raises:
            ValueError: it does not.
        """
        if terms > 1:
            first, last = self.trace.steps, self.trace.steps + terms - 2
            self._batch(
                last,
                f"AID with {terms} terms uses those of steps {first} to {last}, after the end of the run: each term "
                "beyond the first takes a fresh batch (TNNLS VI-A2)",
            )

    @cached_property
    def epoch(self) -> dict[int, float]:
        """The steps whose batches make up N rows or just more, in whole periods, and each one's share of these rows.

        Raises:
            ValueError: the schedule does not go on for so long.
        """
        trace, sizes, held = self.trace, dict[int, int](), 0
        wanted = (
            f"AID with Newton's steps, or a solver such as solver='gmres' uses those from step {trace.steps} on, after "
            f"the end of the run, until they hold {trace.size} rows: their mean stands for the whole data"
        )
        t = trace.steps
        while held < trace.size or len(sizes) % trace.game.period:  # and all turns of a cost that has some
            sizes[t] = _size(self._batch(t, wanted))
            held += sizes[t]
            t += 1
        return {t: size / held for t, size in sizes.items()}

    def mean(self, of_step: Callable[[int], Tensor]) -> Tensor:
        """Over the epoch, each step with its share."""
        return reduce(add, (share * of_step(t) for t, share in self.epoch.items()))

    def _batch(self, t: int, wanted: str) -> Inputs:
        try:
            return self.trace.inputs(t)
        except Exception as error:
            raise ValueError(
                f"the schedule gives no batch of step {t} ({type(error).__name__}: {error}). {wanted}. Let the "
                "schedule go on past the end of the run, as Minibatches and FullBatch do"
            ) from error


class ShiftedField:
    """``A = J + diag(shift)`` at the end of a run: :class:`gan_influence.solvers.Operator`, written out there.

    Args:
        continuation: of the run.
        theta: ``(d,)`` or ``(1, d)``, where one ``theta`` is behind all vectors, or ``(k, d)``, each row's own.
        stops: the step of training of each ``theta``.
        damping: gamma. The shift is gamma and the optimisers' weight decay.
        game: whose field; by default the run's, or another with the same players.
    """

    def __init__(
        self,
        continuation: Continuation,
        theta: Float[Tensor, "*k d"],
        stops: list[int],
        damping: float,
        game: Game | None = None,
    ):
        trace = continuation.trace
        thetas = theta.reshape(-1, theta.shape[-1])
        self.theta = thetas[0] if len(thetas) == 1 else thetas  # for one model vmap costs half as much again a product
        self.end = trace.steps
        self.decay = trace.updates.weight_decays(thetas)
        self.shift = damping + self.decay
        self._game = trace.game if game is None else game
        self._continuation, self._trace, self._stops, self._damping = continuation, trace, stops, damping

    @cached_property
    def eta(self) -> Float[Tensor, " d"]:
        """Each parameter's learning rate at the last step.

        Raises:
            ValueError: one of them is 0.
        """
        last = max(self.end - 1, 0)
        eta = self._trace.updates.learning_rates(self.theta, last)
        players = self._trace.game.players.values()
        for player, own in zip(players, self._trace.game.split(eta), strict=True):
            if own.numel() and not own.any():
                raise ValueError(
                    f"the {player.role}'s learning rate is 0 at the last step, {last}, and so would be AID's scores: "
                    "give the scaling coefficient eta (TNNLS eq. 11) as scale=, such as the rate that most steps had"
                )
        return eta

    def value(self) -> Float[Tensor, "*k d"]:
        """``v(theta) + weight_decay * theta`` in the mean: 0 at an equilibrium."""
        return self._continuation.mean(lambda t: self._field.value(t)) + self.decay * self.theta

    def transpose_product(self, c: Float[Tensor, "*k d"]) -> Float[Tensor, "*k d"]:
        """``A^T c``."""
        mean = self._continuation.mean(lambda t: self._along(partial(self._field.transpose_product, t), c))
        check_product(mean, c)
        return mean + self.shift * c

    def product(self, u: Float[Tensor, "*k d"]) -> Float[Tensor, "*k d"]:
        """``A u``."""
        if u.ndim > self.theta.ndim:  # a forward graph takes one direction at a time
            return torch.stack([self.product(one) for one in u])
        mean = self._continuation.mean(lambda t: self._field.product(t, u))
        check_product(mean, u)
        return mean + self.shift * u

    def transpose_step(self, m: int, w: Float[Tensor, "k d"], eta: Float[Tensor, " d"]) -> Float[Tensor, "k d"]:
        """``(I - eta A_m)^T w``."""
        scaled = eta * w
        product = self._along(partial(self._field.transpose_product, self.end + m), scaled)
        if m == 0:
            check_product(product, scaled)
        return w - product - self.shift * scaled

    def repeats(self, m: int) -> bool:
        """Is the m-th fresh batch the one that all steps see?"""
        return self._field.is_whole(self.end + m)

    def check_series(self, terms: int) -> None:
        """Are there ``terms - 1`` fresh batches?"""
        self._continuation.check(terms)

    def apart(self) -> Iterator[ShiftedField]:
        """Of each ``theta`` alone."""
        if self.theta.ndim == 1:
            yield self
        else:
            for theta, stop in zip(self.theta, self._stops, strict=True):
                yield ShiftedField(self._continuation, theta, [stop], self._damping, self._game)

    def where(self, rows: Bool[Tensor, " k"]) -> str:
        """``"step 2, 5"``."""
        stops = self._stops if self.theta.ndim > 1 else self._stops * len(rows)
        named = dict.fromkeys(stop for stop, here in zip(stops, rows.tolist(), strict=True) if here)
        return f"step {', '.join(map(str, named))}"

    def weight_slopes(self, x: Float[Tensor, "*read k d"]) -> Float[Tensor, "*read k N"]:
        """``dE / dw_i = -d<x, v_w> / dw_i`` of the batch of all N rows, for ``x = A^-T grad E``."""
        k = x.shape[-2:-1] if self.theta.ndim == 1 and len(x.shape) > 1 and x.shape[-2] > 1 else ()
        slopes = self._field.row_terms([-one for one in x.reshape(-1, *(k or self.theta.shape[:-1]), x.shape[-1])])
        return torch.stack(slopes).reshape(*x.shape[:-1], self._trace.size)

    @cached_property
    def _field(self) -> Field:
        if self.theta.ndim > 1:
            stacks(self._trace)
        return Field(self._trace, self.theta, self._game)

    def _along(self, product: Callable[[Tensor], Tensor], vectors: Float[Tensor, "*k d"]) -> Float[Tensor, "*k d"]:
        """The product with several vectors at once; one of them is taken as such, which costs less."""
        if vectors.ndim == self.theta.ndim:
            return product(vectors)
        if len(vectors) == 1:
            return product(vectors[0])[None]
        stacks(self._trace)
        return product(vectors)


class Field:
    """The field at one ``theta``, or a stack of them, of any step's batch: products with ``J^T``, and row terms.

    Steps that see the whole of the data and the same latents share one graph. Every other batch is linearised for its
    own product, so that memory does not grow with their number.
    """

    def __init__(self, trace: Trace, theta: Float[Tensor, "*stops d"], game: Game | None = None):
        self._game = trace.game if game is None else game
        self._trace, self._theta, self._held = trace, theta, trace.state().held
        self._end = max(trace.steps - 1, 0)
        self._first = min(trace.first, self._end)  # of a run without steps the one before
        first, last = trace.inputs(self._first), trace.inputs(self._end)
        self._block = max(_size(first), _size(last))  # an epoch's last batch may be a single row
        self._whole: FieldGraph | None = None
        if last.indices is None:
            self._whole = _graph(self._game, theta, last, self._held)
            self._of_whole, self._last = Recorded(self._whole.transpose_product), last

    def transpose_product(self, t: int, cotangent: Float[Tensor, "*stops d"]) -> Float[Tensor, "*stops d"]:
        """``J(theta; batch_t)^T c``."""
        inputs = self._trace.inputs(t)
        return self._of_whole(cotangent) if self._is_whole(inputs) else self._of_batch(_product, inputs, cotangent)

    def product(self, t: int, direction: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        """``J(theta; batch_t) u``."""
        inputs = self._trace.inputs(t)
        if self._is_whole(inputs):
            return self._forward_of_whole(direction)
        return self._of_batch(_forward_product, inputs, direction)

    def value(self, t: int) -> Float[Tensor, " d"]:
        """``v(theta; batch_t)``."""
        inputs = self._trace.inputs(t)
        if self._whole is not None and self._is_whole(inputs):
            return self._whole.value
        return _graph(self._game, self._theta, inputs, self._held).value

    def is_whole(self, t: int) -> bool:
        """Does step ``t`` see the one batch that all steps of the whole data see?"""
        return self._is_whole(self._trace.inputs(t))

    def _is_whole(self, inputs: Inputs) -> bool:
        if self._whole is None or inputs.indices is not None or inputs.turn != self._last.turn:
            return False
        return trees.equal((inputs.latents, inputs.noise), (self._last.latents, self._last.noise))

    @cached_property
    def _forward_of_whole(self) -> Recorded:
        assert self._whole is not None
        return Recorded(ForwardGraph(self._whole).product)

    def _of_batch(self, function: Callable[..., Tensor], inputs: Inputs, vector: Tensor) -> Tensor:
        game = self._game
        recorded = self._trace.recorded.setdefault((game, function), Recorded(partial(function, game)))
        return recorded(vector, self._theta, inputs.in_step, self._held)

    def row_terms(self, cotangents: list[Float[Tensor, "*stops d"]]) -> list[Float[Tensor, "*stops N"]]:
        """``d<c, v_w> / dw_i`` of the batch of all N rows, for each ``c``; no more rows at a time than in training.

        A row whose cost depends on draws is scored beside those that the run's last steps used.
        """
        if self._whole is not None and self._game.period == 1:
            return [self._whole.row_terms(c) for c in cotangents]
        trace, n = self._trace, self._trace.size
        blocks, draws = [], self._full_batches()
        for start in range(0, n, self._block):
            rows = trees.take(trace.data, slice(start, start + self._block))
            if trees.length(rows) < self._block:  # filled up: a module may not take a lone row, or the latents of one
                others = torch.arange(self._block - trees.length(rows), device=trace.weights.device) % n
                rows = trees.mapped(lambda *two: torch.cat(two), rows, trees.take(trace.data, others))
            blocks.append(self._mean_over_turns(cotangents, next(draws)._replace(rows=rows), n))
        return [torch.cat(terms, dim=-1)[..., :n] for terms in zip(*blocks, strict=True)]

    def _mean_over_turns(
        self, cotangents: list[Float[Tensor, "*stops d"]], batch: Inputs, n: int
    ) -> list[Float[Tensor, "*stops rows"]]:
        """A cost that does another thing at another turn counts with the mean of what it does."""
        game, period = self._game, self._game.period
        of_turns = [
            row_terms(game, self._theta, cotangents, batch._replace(turn=turn), n, self._held) for turn in range(period)
        ]
        return [reduce(add, terms) / period for terms in zip(*of_turns, strict=True)]

    def _full_batches(self) -> Iterator[Inputs]:
        """Those of the run's last steps with as many rows as a block has, backwards, and again from the end."""
        for t in itertools.cycle(range(self._end, self._first - 1, -1)):
            inputs = self._trace.inputs(t)
            if _size(inputs) == self._block:
                yield inputs


class ForwardGraph:
    """Products ``J u``, off one graph: ``J^T c`` is linear in c, and ``<J^T c, u>`` has the slope ``J u`` in it.

    So modules need a derivative more, but no rule for forward differentiation, and no ``J`` is taken for symmetric.
    """

    def __init__(self, field: FieldGraph):
        self._game = field.game
        self._cotangents = tuple(torch.zeros_like(part, requires_grad=True) for part in field.parts)
        moving = [k for k, part in enumerate(field.parts) if part.requires_grad]
        self._pulled: tuple[Tensor, ...] = ()
        if moving:
            parts, cotangents = ([of[k] for k in moving] for of in (field.parts, self._cotangents))
            self._pulled = torch.autograd.grad(
                parts, field.leaves, cotangents, create_graph=True, materialize_grads=True, allow_unused=True
            )

    def product(self, direction: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
        """``J(theta) u``. The graph stays, ready for the next product."""
        along = zip(self._pulled, self._game.split(direction), strict=False)
        pairs = [(pulled, u) for pulled, u in along if pulled.requires_grad]
        if not pairs:
            return torch.zeros_like(direction)
        pulled, u = zip(*pairs, strict=True)
        found = torch.autograd.grad(pulled, self._cotangents, u, retain_graph=True, materialize_grads=True)
        return torch.cat(found, dim=-1)


def _product(
    game: Game, cotangent: Tensor, theta: Float[Tensor, "*stops d"], batch: Inputs, held: Held
) -> Float[Tensor, "*stops d"]:
    return _graph(game, theta, batch, held).transpose_product(cotangent)


def _forward_product(
    game: Game, direction: Tensor, theta: Float[Tensor, " d"], batch: Inputs, held: Held
) -> Float[Tensor, " d"]:
    return ForwardGraph(_graph(game, theta, batch, held)).product(direction)


def _graph(game: Game, theta: Float[Tensor, "*stops d"], batch: Inputs, held: Held) -> FieldGraph:
    stops = theta.shape[:-1]
    return FieldGraph(game, theta, batch._replace(weights=batch.weights.repeat(*stops, 1)), expanded(held, stops))


def _size(inputs: Inputs) -> int:
    return trees.length(inputs.rows)
