"""Public checkpoints of StyleGAN and StyleGAN2, in the layouts of their common PyTorch ports.

A port's file is a dict of state dicts, whose tensors are those of the models here under other names:

==================================  ==========================================  ======================
here                                there                                       shape there
==================================  ==========================================  ======================
StyleGAN, generator                 ``"g_running"``, or ``"generator"``
``mapping.K``                       ``style.(2K+1).linear``
``blocks.B.conv1.input``            ``generator.progression.B.conv1.input``
``blocks.B.conv1.0``                ``generator.progression.B.conv1.1.conv``
``blocks.B.conv1.0`` (fused)        ``generator.progression.B.conv1.0``         weights (in, out, 3, 3)
``blocks.B.conv2``                  ``generator.progression.B.conv2.conv``
``blocks.B.noise1``, ``noise2``     ``generator.progression.B.noise1`` ...      (1, channels, 1, 1)
``blocks.B.adain1``, ``adain2``     ``generator.progression.B.adain1`` ...
``to_rgb``                          ``generator.to_rgb.(last B).conv``
StyleGAN, discriminator             ``"discriminator"``
``from_rgb``                        ``from_rgb.F.0.conv``
``blocks.B.conv1``                  ``progression.(F+B).conv1.0.conv``
``blocks.B.conv2``                  ``progression.(F+B).conv2.1.conv``
``blocks.B.conv2`` (fused)          ``progression.(F+B).conv2.1``
``last.conv1``, ``last.conv2``      ``progression.(last).conv1.0.conv`` ...
``linear``                          ``linear.linear``
StyleGAN2, generator                ``"g_ema"``, or ``"g"``
``mapping.K``                       ``style.(K+1)``
``input.input``                     ``input.input``
``convs.0``, ``convs.K``            ``conv1``, ``convs.(K-1)``                  kernels (1, out, in, 3, 3)
``to_rgbs.0``, ``to_rgbs.K``        ``to_rgb1``, ``to_rgbs.(K-1)``              biases (1, colours, 1, 1)
StyleGAN2, discriminator            ``"d"``
``from_rgb``                        ``convs.0.0``, its bias ``convs.0.1``
``blocks.B.conv1``                  ``convs.(B+1).conv1.0``, ``conv1.1``
``blocks.B.conv2``                  ``convs.(B+1).conv2.1``, ``conv2.2``
``blocks.B.skip``                   ``convs.(B+1).skip.1``
``last``                            ``final_conv.0``, ``final_conv.1``
``dense``, ``linear``               ``final_linear.0``, ``final_linear.1``
==================================  ==========================================  ======================

Weights of StyleGAN are called ``weight_orig`` there, but for the fused ones. Its files hold blocks of all resolutions
up to 1024, of which those up to the model's are taken: F is how many there are above.
"""

from __future__ import annotations

import argparse
import os
import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gan_influence.models.stylegan import StyleGANDiscriminator, StyleGANGenerator
from gan_influence.models.stylegan2 import ColoursOfStyle, StyleGAN2Discriminator, StyleGAN2Generator
from gan_influence.nn.equalised import FusedDownsampling, FusedUpsampling
from gan_influence.nn.resampling import Filter
from gan_influence.nn.styles import ModulatedConvolution, Noise

__all__ = ["load_style_checkpoint"]


def load_style_checkpoint(
    source: str | os.PathLike[str] | Mapping[str, Any],
    generator: StyleGANGenerator | StyleGAN2Generator | None = None,
    discriminator: StyleGANDiscriminator | StyleGAN2Discriminator | None = None,
    *,
    averaged: bool = True,
) -> None:
    """Put the parameters of a public checkpoint into a generator, a discriminator or both.

    Nothing is changed unless everything fits. StyleGAN's discriminators were trained with the minibatch's deviation,
    where the one here has ones.

    Args:
        source: a file of a port (``rosinality/style-based-gan-pytorch`` or ``rosinality/stylegan2-pytorch``, or one of
            NVIDIA's that the latter's converter made), read without running anything in it; or what it holds.
        generator, discriminator: of :func:`stylegan` or :func:`stylegan2`, before any adapters.
        averaged: take the averaged generator rather than the one that was trained last.

    Raises:
        TypeError: neither player, or something else than these.
        ValueError: the file holds no checkpoint, lacks a player, or is of another resolution, width or layout; the
            message names the first parameter that does not fit.
        OSError: the file cannot be read.
    """
    players = [player for player in (generator, discriminator) if player is not None]
    if not players or any(type(player) not in _LAYOUTS for player in players):
        kinds = ", ".join(type(player).__name__ for player in players) or "neither"
        raise TypeError(f"load_style_checkpoint takes a generator or a discriminator of stylegan or stylegan2: {kinds}")
    content = source if isinstance(source, Mapping) else _read(source)
    found = [_fitting(player, content, averaged) for player in players]
    with torch.no_grad():
        for player, values in zip(players, found, strict=True):
            for name, parameter in player.named_parameters():
                parameter.copy_(values[name])


def _read(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # a port keeps its arguments there
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise ValueError(f"{path} is no checkpoint that torch can read: {str(error).splitlines()[0]}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, but a checkpoint is a dict of state dicts")
    return content


def _fitting(player: nn.Module, content: Mapping[str, Any], averaged: bool) -> dict[str, Tensor]:
    """The checkpoint's values of the player's parameters, by their names here."""
    layout, role = _LAYOUTS[type(player)], f"the {type(player).__name__}"
    key = layout.keys[0] if averaged else layout.keys[-1]
    state = content.get(key)
    if not isinstance(state, Mapping):
        there = ", ".join(map(repr, content)) or "nothing"
        raise ValueError(f"the checkpoint has no {key!r}, where {role} would be: it holds {there}")
    names = layout.names(player, state)
    found = {}
    for name, parameter in player.named_parameters():
        if name not in names:
            raise ValueError(f"{role} has a parameter {name!r} of its own: load a checkpoint before adding adapters")
        found[name] = _value(state, key, names[name], name, parameter, _form(player, name), role)
    for name, value in state.items():
        if name.endswith(".kernel"):
            _check_blur(player, name, value)
        elif name not in names.values() and not re.match(layout.besides, name):
            raise ValueError(
                f"the checkpoint's {key!r} has a {name!r}, for which {role} has no place: it is of another resolution "
                "or layout"
            )
    return found


def _value(
    state: Mapping[str, Any], key: str, there: str, name: str, parameter: Tensor, form: _Form, role: str
) -> Tensor:
    value, wanted = state.get(there), tuple(form.there(parameter.detach()).shape)
    if not isinstance(value, Tensor):
        raise ValueError(
            f"the checkpoint's {key!r} has no {there!r}, which {role} needs for its {name!r}: it is of another "
            "resolution or layout"
        )
    if tuple(value.shape) != wanted:
        raise ValueError(
            f"the checkpoint's {there!r} has shape {tuple(value.shape)}, but {role} needs {wanted} for its {name!r}: "
            "it is of another resolution, width or layout"
        )
    return form.here(value)


def _check_blur(player: nn.Module, name: str, kernel: Tensor) -> None:
    own = next(part.kernel for part in player.modules() if isinstance(part, Filter)).cpu()
    if kernel.shape != own.shape or not torch.allclose(kernel.to(own) / kernel.sum(), own / own.sum(), atol=1e-6):
        raise ValueError(
            f"the checkpoint's {name!r} is another filter than the {type(player).__name__}'s: give stylegan2 blur="
        )


class _Form(NamedTuple):
    """A tensor from the shape that it has here to that in a checkpoint, and back."""

    there: Callable[[Tensor], Tensor]
    here: Callable[[Tensor], Tensor]


_SAME = _Form(lambda tensor: tensor, lambda tensor: tensor)
_FIRST = _Form(lambda kernel: kernel[None], lambda kernel: kernel[0])
_SWAPPED = _Form(lambda kernel: kernel.transpose(0, 1), lambda kernel: kernel.transpose(0, 1))
_CHANNELS = _Form(lambda numbers: numbers[None, :, None, None], lambda numbers: numbers[0, :, 0, 0])


def _form(player: nn.Module, name: str) -> _Form:
    path, _, part = name.rpartition(".")
    owner = player.get_submodule(path)
    if isinstance(owner, FusedUpsampling) and part == "weight":
        return _SWAPPED
    if isinstance(owner, ModulatedConvolution):
        return _FIRST
    is_channels = isinstance(owner, Noise) and isinstance(player, StyleGANGenerator)
    return _CHANNELS if is_channels or isinstance(owner, ColoursOfStyle) else _SAME


def _pair(here: str, weight: str, bias: str | None = None) -> dict[str, str]:
    """Names of a layer's weight and bias, here to there, where the bias may be another layer's."""
    return {
        f"{here}.weight": weight,
        f"{here}.bias": bias or weight.removesuffix("_orig").removesuffix("weight") + "bias",
    }


def _stylegan_generator(player: StyleGANGenerator, state: Mapping[str, Any]) -> dict[str, str]:
    names = {"blocks.0.conv1.input": "generator.progression.0.conv1.input"}
    for k in range(len(player.mapping)):
        names |= _pair(f"mapping.{k}", f"style.{2 * k + 1}.linear.weight_orig")
    for b, block in enumerate(player.blocks):
        here, there = f"blocks.{b}", f"generator.progression.{b}"
        fused = any(isinstance(part, FusedUpsampling) for part in block.modules())
        names |= _pair(f"{here}.conv1.0", f"{there}.conv1.{'0.weight' if fused else '1.conv.weight_orig'}")
        names |= _pair(f"{here}.conv2", f"{there}.conv2.conv.weight_orig")
        for i in (1, 2):
            names[f"{here}.noise{i}.weight"] = f"{there}.noise{i}.weight_orig"
            names |= _pair(f"{here}.adain{i}.style", f"{there}.adain{i}.style.linear.weight_orig")
    return names | _pair("to_rgb", f"generator.to_rgb.{len(player.blocks) - 1}.conv.weight_orig")


def _stylegan_discriminator(player: StyleGANDiscriminator, state: Mapping[str, Any]) -> dict[str, str]:
    last = max((int(found[1]) for name in state if (found := re.match(r"progression\.(\d+)\.", name))), default=0)
    first = last - len(player.blocks)
    names = _pair("from_rgb", f"from_rgb.{first}.0.conv.weight_orig") | _pair("linear", "linear.linear.weight_orig")
    for b, block in enumerate(player.blocks):
        there = f"progression.{first + b}"
        names |= _pair(f"blocks.{b}.conv1", f"{there}.conv1.0.conv.weight_orig")
        fused = isinstance(block.conv2, FusedDownsampling)
        names |= _pair(f"blocks.{b}.conv2", f"{there}.conv2.1.{'weight' if fused else 'conv.weight_orig'}")
    for i in (1, 2):
        names |= _pair(f"last.conv{i}", f"progression.{last}.conv{i}.0.conv.weight_orig")
    return names


def _stylegan2_generator(player: StyleGAN2Generator, state: Mapping[str, Any]) -> dict[str, str]:
    names = {"input.input": "input.input"}
    for k in range(len(player.mapping)):
        names |= _pair(f"mapping.{k}", f"style.{k + 1}.weight")
    for k in range(len(player.convs)):
        here, there = f"convs.{k}", f"convs.{k - 1}" if k else "conv1"
        names |= {f"{here}.conv.weight": f"{there}.conv.weight", f"{here}.noise.weight": f"{there}.noise.weight"}
        names |= {f"{here}.bias": f"{there}.activate.bias"}
        names |= _pair(f"{here}.conv.modulation", f"{there}.conv.modulation.weight")
    for k in range(len(player.to_rgbs)):
        here, there = f"to_rgbs.{k}", f"to_rgbs.{k - 1}" if k else "to_rgb1"
        names |= {f"{here}.conv.weight": f"{there}.conv.weight", f"{here}.bias": f"{there}.bias"}
        names |= _pair(f"{here}.conv.modulation", f"{there}.conv.modulation.weight")
    return names


def _stylegan2_discriminator(player: StyleGAN2Discriminator, state: Mapping[str, Any]) -> dict[str, str]:
    names = _pair("from_rgb", "convs.0.0.weight", "convs.0.1.bias")
    for b in range(len(player.blocks)):
        here, there = f"blocks.{b}", f"convs.{b + 1}"
        names |= _pair(f"{here}.conv1", f"{there}.conv1.0.weight", f"{there}.conv1.1.bias")
        names |= _pair(f"{here}.conv2", f"{there}.conv2.1.weight", f"{there}.conv2.2.bias")
        names |= {f"{here}.skip.weight": f"{there}.skip.1.weight"}
    names |= _pair("last", "final_conv.0.weight", "final_conv.1.bias")
    return names | _pair("dense", "final_linear.0.weight") | _pair("linear", "final_linear.1.weight")


class _Layout(NamedTuple):
    """How a player is kept in a checkpoint.

    Attributes:
        keys: of its state dict, of the averaged one first.
        names: of its parameters, here to there.
        besides: a pattern of what else may be there.
    """

    keys: tuple[str, ...]
    names: Callable[[Any, Mapping[str, Any]], dict[str, str]]
    besides: str


_LAYOUTS: dict[type[nn.Module], _Layout] = {
    StyleGANGenerator: _Layout(
        ("g_running", "generator"), _stylegan_generator, r"generator\.(progression|to_rgb)\.\d+\."
    ),
    StyleGANDiscriminator: _Layout(("discriminator",), _stylegan_discriminator, r"(progression|from_rgb)\.\d+\."),
    StyleGAN2Generator: _Layout(("g_ema", "g"), _stylegan2_generator, r"noises\.noise_\d+$|.*\.kernel$"),
    StyleGAN2Discriminator: _Layout(("d",), _stylegan2_discriminator, r".*\.kernel$"),
}
