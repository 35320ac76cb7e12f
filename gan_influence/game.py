"""A game: its players, what each of them minimises, and the gradient field that training follows."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap

from gan_influence import losses
from gan_influence.checks import is_real
from gan_influence.devices import repeatable
from gan_influence.replacements import with_right_derivatives

__all__ = ["BOTH", "Game", "Moving", "Player", "Players", "Rows", "first_rows"]

Rows: TypeAlias = Any  # a tensor of rows; in a one-player game a pair of tensors (inputs, targets)


_SWAPPING = threading.RLock()  # while a module is called its parameters are others, for all threads


class Moving(NamedTuple):
    """Which players move."""

    generator: bool
    discriminator: bool


BOTH = Moving(True, True)
_REGULARISED = ("all", "kernels")
_STACKED = (0, 0, None, None, 0), (0, 0, 0, 0, 0)  # phi, psi, rows, latents, weights: the models of a run; runs


def first_rows(rows: Rows) -> Tensor:
    """The rows themselves, or the inputs of pairs ``(inputs, targets)``."""
    return rows[0] if isinstance(rows, tuple) else rows


class Player:
    """A module as a pure function of one flat vector of its trainable parameters.

    The parameters are those with ``requires_grad``, in the order of ``named_parameters()``, each flattened;
    frozen weights and buffers are constants.

    Attributes:
        writes_inputs: it works in place on what it is given, as ``nn.ReLU(inplace=True)`` in the first place does: then
            it is given copies. Found out before training.
    """

    def __init__(self, role: str, module: nn.Module):
        if not isinstance(module, nn.Module):
            raise TypeError(f"the {role} must be a torch.nn.Module, got {type(module).__name__}")
        if isinstance(module, torch.jit.ScriptModule | nn.DataParallel | nn.parallel.DistributedDataParallel):
            raise TypeError(
                f"the {role} is a {type(module).__name__}, which cannot be called with other parameters than its own: "
                "give the module that it was made of, .module of a parallel one"
            )
        _reject_stochastic_and_batch_dependent(role, module)
        self.role = role
        self.module = module
        self.writes_inputs = False
        trainable = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        first_name = {id(p): name for name, p in trainable}
        self._places = {  # where each stands: one parameter may be that of several modules
            f"{path}.{name}".removeprefix("."): first_name[id(p)]
            for path, part in module.named_modules()
            for name, p in part.named_parameters(recurse=False, remove_duplicate=False)
            if p.requires_grad
        }
        self.names = [name for name, _ in trainable]
        self.shapes = [p.shape for _, p in trainable]
        self.sizes = [p.numel() for _, p in trainable]
        self.size = sum(self.sizes)
        dtypes = {p.dtype for _, p in trainable}
        if len(dtypes) > 1:
            raise TypeError(f"the {role}'s parameters mix {_names(dtypes)}: convert it with .double() or .float()")

    def copied(self, device: torch.device) -> Player:
        """The same with a copy of the module, out of reach of later changes to it.

        Raises:
            TypeError: the module cannot be copied.
        """
        try:
            module = copy.deepcopy(self.module)
        except (RuntimeError, TypeError) as error:
            raise TypeError(
                f"the {self.role} cannot be copied ({error}): it holds a tensor that was computed, as the old "
                "torch.nn.utils.weight_norm does (take torch.nn.utils.parametrizations.weight_norm), or something that "
                "is none of a module's, such as a lock or an open file"
            ) from error
        player = Player(self.role, with_right_derivatives(module).to(device))
        player.writes_inputs = self.writes_inputs
        return player

    def vector(self) -> Float[Tensor, " d"]:
        """The module's current parameters, flattened and copied."""
        named = dict(self.module.named_parameters())
        values = [named[name].detach().reshape(-1) for name in self.names]
        return torch.cat(values) if values else torch.empty(0)

    def unflatten(self, parameters: Float[Tensor, " d"]) -> dict[str, Tensor]:
        """The vector's parts under the module's own parameter names, as views."""
        parts = parameters.split(self.sizes, dim=-1)
        return {name: part.view(shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}

    def kernels(self, parameters: Float[Tensor, " d"]) -> Float[Tensor, " d2"]:
        """The vector's parts of two dimensions or more, without biases and gains."""
        parts = zip(parameters.split(self.sizes, dim=-1), self.shapes, strict=True)
        kernels = [part for part, shape in parts if len(shape) > 1]
        return torch.cat(kernels, dim=-1) if kernels else parameters[..., :0]

    def at(self, parameters: Float[Tensor, " d"]) -> Callable[[Tensor], Tensor]:
        """The module as a function of its inputs alone, at these parameters; the module itself is left untouched."""
        named = self.unflatten(parameters)
        return partial(self._called, {place: named[name] for place, name in self._places.items()})

    def _called(self, placed: dict[str, Tensor], inputs: Tensor) -> Tensor:
        inputs = inputs.clone() if self.writes_inputs else inputs
        with _SWAPPING:
            # Of a module that stands in two places, torch's own tying would not put the parameters back.
            return functional_call(self.module, placed, (inputs,), tie_weights=False)


class Game:
    r"""Two players, a loss and a regulariser (TNNLS eq. 1-2, ICLR eq. 1-2); or one player, trained on its own.

    With weights ``w`` on the real rows of a batch ``B`` (``w_j = 0`` removes row j, the denominator stays), each
    player minimises its own cost, over its own parameters::

        L_G(phi, psi)    = mean_z generator(D(psi, G(phi, z))) + lambda_1 |phi|^2 / 2
        L_D(phi, psi; w) = (1/|B|) sum_i w_i real(D(psi, x_i)) + mean_z fake(D(psi, G(phi, z))) + lambda_2 |psi|^2 / 2

    For the zero-sum losses this is TNNLS eq. 2 with ``R = (lambda_1 |phi|^2 - lambda_2 |psi|^2) / 2``.

    With ``generator=None`` it is a one-player game, supervised training with weighted rows ``(x_i, y_i)``::

        L(psi; w) = (1/|B|) sum_i w_i loss(f(psi, x_i), y_i) + lambda |psi|^2 / 2

    so that ITD is SGD-influence (Hara et al. 2019) and AID the influence function (Koh and Liang 2017).

    Args:
        generator: module taking latents ``(n, *latent_shape)`` to rows ``(n, *instance_shape)``; ``None`` for a
            one-player game.
        discriminator: module taking rows to one logit each, ``(n,)`` or ``(n, 1)``; in a one-player game the model.
        loss: one of ``minimax``, ``non_saturating``, ``wasserstein``, ``least_squares``, ``hinge``, ``softplus``,
            or an object with ``real``, ``fake`` and ``generator`` (see :class:`gan_influence.losses.Loss`). In a
            one-player game ``squared_error``, ``cross_entropy``, ``binary_cross_entropy`` or a function
            ``(outputs, targets) -> (n,)``.
        l2: ``(lambda_1, lambda_2)``, both at least 0; in a one-player game one rate.
        l2_of: the parameters that l2 regularises: ``"all"`` of them, or ``"kernels"``, those of two dimensions or
            more, which leaves out biases and gains (as the ICLR authors' code does).

    Attributes:
        stacks: can torch batch several models of it? ``None`` until :func:`gan_influence.stacking.stacks` finds out.
        measured_apart: metrics of which torch cannot batch several models.

    Raises:
        TypeError: a player is no module, or the two differ in data type; the loss lacks a cost.
        ValueError: unknown loss; negative ``l2``; batch statistics or dropout; a parameter that both players train.
    """

    def __init__(
        self,
        generator: nn.Module | None,
        discriminator: nn.Module,
        loss: str | losses.Loss | losses.PairCost = "minimax",
        l2: tuple[float, float] | float = (0.0, 0.0),
        l2_of: str = "all",
    ):
        self.one_player = generator is None
        self.generator = Player("generator", nn.Identity() if generator is None else generator)
        self.discriminator = Player("model" if self.one_player else "discriminator", discriminator)
        self.loss: Any = losses.resolve_one_player(loss) if self.one_player else losses.resolve(loss)
        self.l2 = _check_l2((0.0, l2) if self.one_player and is_real(l2) else l2)
        if l2_of not in _REGULARISED:
            raise ValueError(f"l2_of must be one of {', '.join(_REGULARISED)}, got {l2_of!r}")
        self.l2_of = l2_of
        self.stacks: bool | None = None
        self.measured_apart: list[Any] = []
        if generator is not None:
            _reject_shared_parameters(generator, discriminator)
        _common_dtype(self.generator, self.discriminator)

    @property
    def players(self) -> tuple[Player, Player]:
        return self.generator, self.discriminator

    @property
    def dtype(self) -> torch.dtype:
        """The data type of both players' parameters."""
        return _common_dtype(*self.players)

    @property
    def size(self) -> int:
        """``d``, the number of parameters of both players."""
        return self.generator.size + self.discriminator.size

    def theta(self) -> Float[Tensor, " d"]:
        """``theta = (phi, psi)`` (TNNLS II-C): the modules' current parameters, concatenated and copied."""
        return torch.cat([player.vector() for player in self.players if player.size])

    def split(self, theta: Float[Tensor, "*models d"]) -> tuple[Tensor, Tensor]:
        """``(phi, psi)``, as views."""
        phi, psi = theta.split([self.generator.size, self.discriminator.size], dim=-1)
        return phi, psi

    def leaves(self, theta: Float[Tensor, "*models d"]) -> tuple[Tensor, Tensor]:
        """``(phi, psi)`` as the inputs of a fresh graph."""
        phi, psi = self.split(theta)
        return phi.detach().requires_grad_(), psi.detach().requires_grad_()

    def parameters(self, theta: Float[Tensor, " d"]) -> dict[str, dict[str, Tensor]]:
        """``theta`` by name, ``{"generator": {name: tensor}, "discriminator": {...}}``, or ``{"model": {...}}``."""
        named = {
            player.role: player.unflatten(part) for player, part in zip(self.players, self.split(theta), strict=True)
        }
        if self.one_player:
            del named["generator"]
        return named

    def constants(self) -> list[Tensor]:
        """What the modules hold and no player trains: frozen weights and buffers."""
        held = []
        for player in self.players:
            trained = set(player.names)
            named = (*player.module.named_parameters(), *player.module.named_buffers())  # a state_dict lacks some
            held += [value for name, value in named if name not in trained]
        return held

    def snapshot(self, device: torch.device) -> Game:
        """A copy whose modules, constants included, later changes to the caller's modules cannot reach."""
        snapshot = copy.copy(self)
        snapshot.measured_apart = []
        snapshot.generator, snapshot.discriminator = (player.copied(device) for player in self.players)
        return snapshot

    def losses(
        self,
        phi: Float[Tensor, " d_phi"],
        psi: Float[Tensor, " d_psi"],
        rows: Rows,
        latents: Float[Tensor, "n_z *latent"],
        weights: Float[Tensor, " batch"],
        moving: Moving = BOTH,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """``(L_G, L_D)``, 0 for a player that is not moving. Both share the fake batch's forward pass."""
        generator_loss = discriminator_loss = phi.new_zeros(())
        if self.one_player:
            return generator_loss, self._regularised(_mean(weights * self.row_costs(psi, rows)), 1, psi)
        discriminator = self.discriminator.at(psi)
        real = _logits(discriminator, first_rows(rows)) if moving.discriminator else None
        fake = _logits(discriminator, self.generator.at(phi)(latents))
        if moving.generator:
            generator_loss = self._regularised(_mean(self.loss.generator(fake)), 0, phi)
        if real is not None:
            cost = _mean(weights * self.loss.real(real)) + _mean(self.loss.fake(fake))
            discriminator_loss = self._regularised(cost, 1, psi)
        return generator_loss, discriminator_loss

    def row_costs(self, psi: Float[Tensor, " d_psi"], rows: Rows) -> Float[Tensor, " batch"]:
        """The cost that each row's weight multiplies: ``real(D(psi, x_i))``, or ``loss(f(psi, x_i), y_i)``."""
        if not self.one_player:
            return self.loss.real(_logits(self.discriminator.at(psi), first_rows(rows)))
        inputs, targets = rows
        return self.loss(self.discriminator.at(psi)(inputs), targets)

    def gradient(
        self,
        phi: Float[Tensor, "*runs_and_models d_phi"],
        psi: Float[Tensor, "*runs_and_models d_psi"],
        rows: Rows,
        latents: Float[Tensor, "n_z *latent"],
        weights: Float[Tensor, "*runs_and_models batch"],
        moving: Moving = BOTH,
        create_graph: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """``v_w(theta) = (grad_phi L_G, grad_psi L_D)``: TNNLS eq. 4, ICLR eq. 3; 0 for a player not moving.

        ``phi`` and ``psi`` come from :meth:`leaves`. With a leading dimension they are as many models of one run, each
        with its own weights: their costs are summed, so that one backward pass serves all. With two they are the
        models of several runs, and rows and latents have a leading dimension too. Returns the two parts, in the
        shapes of ``phi`` and ``psi``; with ``create_graph`` they can be differentiated once more.
        """
        with torch.enable_grad():
            costs: Callable[..., tuple[Tensor, Tensor]] = partial(self.losses, moving=moving)
            for in_dims in _STACKED[: phi.ndim - 1]:
                costs = self.stacked(costs, in_dims)
            generator_loss, discriminator_loss = costs(phi, psi, rows, latents, weights)
            v_phi = _gradient(generator_loss, phi, create_graph, retain_graph=True)
            v_psi = _gradient(discriminator_loss, psi, create_graph, retain_graph=create_graph)
        return v_phi, v_psi

    def stacked(self, function: Callable[..., Any], in_dims: tuple[int | None, ...] = (0,)) -> Callable[..., Any]:
        """``vmap(function)``, or the same by a loop where :mod:`gan_influence.stacking` found that torch cannot."""
        return vmap(function, in_dims=in_dims) if self.stacks is not False else partial(_looped, function, in_dims)

    def _regularised(self, cost: Float[Tensor, ""], player: int, own: Tensor) -> Float[Tensor, ""]:
        if not self.l2[player]:
            return cost
        if self.l2_of == "kernels":
            own = self.players[player].kernels(own)
        return cost + 0.5 * self.l2[player] * own.square().sum()


class Players:
    """The players of a game at one ``theta = (phi, psi)``: what a metric sees."""

    def __init__(self, game: Game, phi: Float[Tensor, " d_phi"], psi: Float[Tensor, " d_psi"]):
        self.game, self.phi, self.psi = game, phi, psi

    def generate(self, latents: Float[Tensor, "n *latent"]) -> Float[Tensor, "n *instance"]:
        """The generator's rows for these latents."""
        with repeatable(self.phi.device):
            return self.game.generator.at(self.phi)(latents.to(self.phi.device))

    def discriminate(self, rows: Float[Tensor, "n *instance"]) -> Float[Tensor, " n"]:
        """The discriminator's logits for these rows."""
        with repeatable(self.psi.device):
            return _logits(self.game.discriminator.at(self.psi), rows.to(self.psi.device))

    def outputs(self, inputs: Float[Tensor, "n *instance"]) -> Float[Tensor, "n *outputs"]:
        """The outputs of a one-player game's model for these inputs."""
        with repeatable(self.psi.device):
            return self.game.discriminator.at(self.psi)(inputs.to(self.psi.device))


def _logits(discriminator: Callable[[Tensor], Tensor], rows: Float[Tensor, "n *instance"]) -> Float[Tensor, " n"]:
    logits = discriminator(rows)
    if logits.shape not in ((len(rows),), (len(rows), 1)):
        raise ValueError(
            f"the discriminator returned shape {tuple(logits.shape)} for {len(rows)} rows: "
            f"it must return one logit a row, ({len(rows)},) or ({len(rows)}, 1)"
        )
    return logits.view(len(rows)) if logits.ndim > 1 else logits


def _mean(costs: Float[Tensor, " rows"]) -> Float[Tensor, ""]:
    if costs.ndim != 1:
        raise ValueError(f"a loss must give one cost a row, a vector like its logits, got shape {tuple(costs.shape)}")
    return costs.sum() / len(costs)  # not mean(): its backward divides every row where this divides one number


def _looped(function: Callable[..., tuple[Tensor, ...]], in_dims: tuple[int | None, ...], *args: Any) -> Any:
    """``vmap(function, in_dims)(*args)``, where arguments and results are tensors or tuples of them."""
    models = next(len(arg) for arg, dim in zip(args, in_dims, strict=True) if dim is not None)
    found = []
    for k in range(models):
        own = [_of_model(arg, k) if dim is not None else arg for arg, dim in zip(args, in_dims, strict=True)]
        found.append(function(*own))
    return tuple(torch.stack(parts) for parts in zip(*found, strict=True))


def _of_model(arg: Any, k: int) -> Any:
    return tuple(part[k] for part in arg) if isinstance(arg, tuple) else arg[k]


def _gradient(costs: Float[Tensor, "*models"], leaf: Tensor, create_graph: bool, retain_graph: bool) -> Tensor:
    """Each model's gradient of its own cost, as the gradient of the sum of all."""
    if not costs.requires_grad:  # a player without parameters, or a cost that is constant
        return torch.zeros_like(leaf)
    ones = torch.ones(costs.shape, dtype=costs.dtype, device=costs.device)
    (gradient,) = torch.autograd.grad(
        costs, leaf, ones, create_graph=create_graph, retain_graph=retain_graph, materialize_grads=True
    )
    return gradient


def _reject_stochastic_and_batch_dependent(role: str, module: nn.Module) -> None:
    for name, part in module.named_modules():
        where = f"the {role}'s {type(part).__name__} {name!r}" if name else f"the {role}"
        tracks = isinstance(part, nn.modules.batchnorm._NormBase) and part.training and part.track_running_stats
        mixes = isinstance(part, nn.modules.batchnorm._BatchNorm) and (part.training or not part.track_running_stats)
        mixes = mixes and role != "generator"  # which sees no row
        if tracks or mixes:
            why = ["no step can be replayed that updates running ones"] * tracks
            why += ["removing one row would change all others' terms"] * mixes
            raise ValueError(
                f"{where} uses batch statistics, and {' and '.join(why)}: use GroupNorm or LayerNorm, or put it in "
                "eval() mode with running statistics; or, in a generator, take track_running_stats=False"
            )
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.training and part.p > 0:
            raise ValueError(f"{where} draws fresh randomness at every call, so no step can be replayed: call .eval()")


def _reject_shared_parameters(generator: nn.Module, discriminator: nn.Module) -> None:
    ours = {id(p): name for name, p in generator.named_parameters() if p.requires_grad}
    for name, p in discriminator.named_parameters():
        if p.requires_grad and id(p) in ours:
            raise ValueError(
                f"generator parameter {ours[id(p)]!r} and discriminator parameter {name!r} are the same tensor: "
                "each player needs its own; copy one of the modules or freeze the shared parameter"
            )


def _check_l2(l2: object) -> tuple[float, float]:
    if not (isinstance(l2, tuple | list) and len(l2) == 2 and all(is_real(rate) and rate >= 0 for rate in l2)):
        raise ValueError(f"l2 must be two finite rates >= 0, (lambda_1, lambda_2), got {l2!r}")
    return float(l2[0]), float(l2[1])


def _common_dtype(*players: Player) -> torch.dtype:
    dtypes = {player.role: player.vector().dtype for player in players if player.size}
    if not dtypes:
        raise ValueError("neither player has a parameter with requires_grad: there is nothing to train")
    if len(set(dtypes.values())) > 1:
        described = " and ".join(f"the {role} {_names({dtype})}" for role, dtype in dtypes.items())
        raise TypeError(f"the players differ in data type, {described}: convert one with .double() or .float()")
    return next(iter(dtypes.values()))


def _names(dtypes: set[torch.dtype]) -> str:
    return " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
