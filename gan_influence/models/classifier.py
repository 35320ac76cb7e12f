"""The image classifier that the Inception score and the Fréchet distance rest on (TNNLS Table III, ICLR Table 1)."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, max_pool2d
from torch.nn.utils import convert_conv2d_weight_memory_format
from tqdm import tqdm

from gan_influence.checks import is_real, is_whole
from gan_influence.devices import repeatable
from gan_influence.history import DamagedFileError, Folder

__all__ = ["Classifier", "classifier", "fit_classifier", "load_classifier", "save_classifier"]

Labelled: TypeAlias = tuple[Float[Tensor, "n colours size size"], Int[Tensor, " n"]]

_KERNEL = 5
_POOL = 2
_IMAGES_AT_ONCE = 1000  # where only the classes are wanted
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Classifier(nn.Module):
    """Logits of images, and the features that they are a linear function of. :func:`classifier` makes one.

    For images of 28 pixels and one colour, 8 channels, 128 hidden units and 10 classes::

        images    (n, 1, 28, 28)
                  (n, 8, 14, 14)     convolution 5x5 with "same" padding, max-pool 2x2, sigmoid
                  (n, 8, 7, 7)       convolution 5x5 with "same" padding, max-pool 2x2, sigmoid
        features  (n, 128)           dense layer from the 392 numbers before it, sigmoid
        logits    (n, 10)            dense layer

    Where the largest of four values occurs twice, the gradient goes to the first in reading order.

    Attributes:
        sizes: the arguments that it was made with, by name.
        accuracy: the share of held-out images that it labels rightly; ``None`` until it is fitted.
    """

    def __init__(self, image_size: int = 28, colours: int = 1, classes: int = 10, channels: int = 8, hidden: int = 128):
        super().__init__()
        sizes = {
            "image_size": image_size,
            "colours": colours,
            "classes": classes,
            "channels": channels,
            "hidden": hidden,
        }
        for name, size in sizes.items():
            if not is_whole(size) or size < 1:
                raise ValueError(f"{name} must be a whole number >= 1, got {size!r}")
        if image_size % _POOL**2:
            raise ValueError(f"image_size must be a multiple of {_POOL**2}: it is halved twice. Got {image_size!r}")
        self.sizes = {name: int(size) for name, size in sizes.items()}
        self.accuracy: float | None = None
        self.first = nn.Conv2d(colours, channels, _KERNEL, padding=_KERNEL // 2)
        self.second = nn.Conv2d(channels, channels, _KERNEL, padding=_KERNEL // 2)
        self.dense = nn.Linear(channels * (image_size // _POOL**2) ** 2, hidden)
        self.output = nn.Linear(hidden, classes)

    def forward(self, images: Float[Tensor, "n colours size size"]) -> Float[Tensor, "n classes"]:
        """One logit for each class: ``softmax(logits)`` is p_c(y | x).

        Raises:
            ValueError: the images are not of the shape that this classifier is for.
        """
        return self.output(self.features(images))

    def features(self, images: Float[Tensor, "n colours size size"]) -> Float[Tensor, "n hidden"]:
        """The 128 hidden units, each in (0, 1): the output of the 4th layer (TNNLS Appendix C-A).

        Raises:
            ValueError: the images are not of the shape that this classifier is for.
        """
        _check_shape("images", images, self)
        maps = images
        for convolution in (self.first, self.second):
            # The sigmoid rises, so it commutes with the maximum: after pooling it is taken of a quarter of the values.
            maps = torch.sigmoid(max_pool2d(convolution(maps), _POOL))
        return torch.sigmoid(self.dense(maps.flatten(1)))


def classifier(
    image_size: int = 28,
    *,
    colours: int = 1,
    classes: int = 10,
    channels: int = 8,
    hidden: int = 128,
    dtype: torch.dtype = torch.float32,
    seed: int | None = None,
) -> Classifier:
    """A classifier to be fitted, for images ``(n, colours, image_size, image_size)`` in [-1, 1].

    The layers are those of the authors' code. TNNLS Table III (and ICLR Table 1, the same) differs in three places:

    * it prints images of 25 and 12 pixels after the convolutions and one pooling, but then 392 = 7 * 7 * 8 numbers, as
      two convolutions with "same" padding and a pooling after either give;
    * it prints a sigmoid for the pooling: here each convolution has one sigmoid, which may come before or after the
      pooling, since it rises;
    * it prints a sigmoid for the last layer, which is left out here: a softmax of it would keep every Inception score
      below 1.14, and TNNLS Table VIII has changes of that score by 2.7.

    Args:
        image_size: pixels, a multiple of 4.
        colours: of a pixel.
        classes: labels are 0 ... classes - 1.
        channels: of either convolution.
        hidden: units of the dense layer, which are the features.
        dtype: of the parameters.
        seed: of the kernels, Glorot uniform; by default they come from torch's global generator. Biases start at zero.

    Raises:
        ValueError: a size below 1, or an image size that cannot be halved twice.
    """
    with torch.random.fork_rng(devices=[]):  # torch's own initialisation, replaced below, draws from it
        model = Classifier(image_size, colours, classes, channels, hidden).to(dtype)
    random = None if seed is None else torch.Generator().manual_seed(int(seed))
    for name, parameter in model.named_parameters():
        if name.endswith("weight"):
            nn.init.xavier_uniform_(parameter, generator=random)
        else:
            nn.init.zeros_(parameter)
    # With kernels in this layout fitting takes half the time on a CPU, whatever the layout of the images.
    return convert_conv2d_weight_memory_format(model, torch.channels_last)


def fit_classifier(
    model: Classifier,
    training: Labelled,
    held_out: Labelled,
    *,
    epochs: int = 50,
    batch_size: int = 128,
    lr: float = 1e-2,
    l2: float = 1e-3,
    seed: int = 0,
    progress: bool = False,
) -> Classifier:
    """A copy of the classifier, fitted by Adam to labelled images; the module given stays as it is.

    Each step minimises, over a batch B and with W the kernel of the output layer alone::

        -(1/|B|) sum_{i in B} log softmax(logits(x_i))_{y_i} + l2/2 |W|^2

    An epoch takes every row once, in a fresh order; its last batch is smaller where ``batch_size`` does not divide the
    number of rows. The same seed gives the same bits on the same device. The copy's parameters are frozen
    (``requires_grad`` is false): a metric differentiates it in its images only. Its ``accuracy`` is that on
    ``held_out``. The defaults are those of the authors' code.

    Args:
        model: where fitting starts.
        training: ``(images, labels)``: ``(n, colours, size, size)`` in the classifier's data type, and whole numbers
            0 ... classes - 1. They are moved to the classifier's device.
        held_out: images and labels to measure the accuracy on.
        epochs: how many times each row is taken.
        batch_size: rows a step, all of them where there are fewer.
        lr: of Adam.
        l2: of the output layer's kernel.
        seed: of the order of the rows.
        progress: show a progress bar.

    Raises:
        TypeError: something else than a classifier and tensors; images of another data type; labels that are not whole.
        ValueError: shapes that do not fit, no rows, NaN or infinity, a label that is no class, or a bad setting.
        RuntimeError: parameters stopped being finite.
    """
    _check_settings(model, epochs, batch_size, lr, l2, seed)
    images, labels = _checked("training", training, model)
    held_out = _checked("held_out", held_out, model)
    random = torch.Generator().manual_seed(int(seed))
    fitted = copy.deepcopy(model).requires_grad_(True)
    optimiser = torch.optim.Adam(fitted.parameters(), lr=lr)
    with torch.enable_grad(), repeatable(images.device):
        for epoch in tqdm(range(epochs), desc="classifier", unit="epoch", disable=not progress):
            for rows in torch.randperm(len(images), generator=random).to(images.device).split(batch_size):
                optimiser.zero_grad()
                _loss(fitted, images[rows], labels[rows], l2).backward()
                optimiser.step()
            _check_finite(fitted, epoch, lr)
        fitted.requires_grad_(False)
        fitted.accuracy = _accuracy(fitted, *held_out)
    return fitted


def save_classifier(path: str | os.PathLike[str], model: Classifier) -> None:
    """Write the classifier's sizes, parameters and accuracy to one file, in one step, with a checksum.

    Raises:
        TypeError: it is no classifier.
        OSError: the file cannot be written; one that was there stays as it was.
    """
    _check_classifier(model)
    state = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    content = {"sizes": model.sizes, "state": state, "accuracy": model.accuracy}
    Folder(Path(path).parent).write(Path(path).name, content)


def load_classifier(path: str | os.PathLike[str]) -> Classifier:
    """The classifier that :func:`save_classifier` wrote, on the CPU, its parameters frozen.

    Raises:
        DamagedFileError: the file is missing, was changed, or holds something else.
    """
    content = Folder(Path(path).parent).read(Path(path).name)
    try:
        with torch.device("meta"):  # draws no random numbers
            model = Classifier(**content["sizes"])
        model.load_state_dict(content["state"], assign=True)
        model.accuracy = content["accuracy"]
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise DamagedFileError(f"{path} holds no classifier of this library: {error}") from error
    return model.requires_grad_(False)


def _loss(
    model: Classifier, images: Float[Tensor, "n colours size size"], labels: Int[Tensor, " n"], l2: float
) -> Float[Tensor, ""]:
    return cross_entropy(model(images), labels) + 0.5 * l2 * model.output.weight.square().sum()


@torch.no_grad()
def _accuracy(model: Classifier, images: Float[Tensor, "n colours size size"], labels: Int[Tensor, " n"]) -> float:
    found = torch.cat([model(part).argmax(1) for part in images.split(_IMAGES_AT_ONCE)])
    return int((found == labels).sum()) / len(labels)


def _check_classifier(model: object) -> None:
    if not isinstance(model, Classifier):
        raise TypeError(f"model must be a Classifier, got {type(model).__name__}: gan_influence.models.classifier()")


def _check_settings(model: object, epochs: object, batch_size: object, lr: object, l2: object, seed: object) -> None:
    _check_classifier(model)
    for name, count in (("epochs", epochs), ("batch_size", batch_size)):
        if not is_whole(count) or count < 1:
            raise ValueError(f"{name} must be a whole number >= 1, got {count!r}")
    if not is_real(lr) or lr <= 0:
        raise ValueError(f"lr must be a number > 0, got {lr!r}")
    if not is_real(l2) or l2 < 0:
        raise ValueError(f"l2 must be a number >= 0, got {l2!r}")
    if not is_whole(seed) or not 0 <= seed < 2**64:
        raise ValueError(f"seed must be a whole number from 0 to 2^64 - 1, got {seed!r}")


def _checked(name: str, pair: Labelled, model: Classifier) -> Labelled:
    """The pair on the classifier's device, labels as int64."""
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(f"{name} must be a pair (images, labels), got {type(pair).__name__}")
    images, labels = pair
    _check_images(f"{name} images", images, model)
    _check_labels(f"{name} labels", labels, len(images), model.sizes["classes"])
    device = model.output.weight.device
    return images.to(device), labels.to(device, torch.int64)


def _check_images(name: str, images: object, model: Classifier) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        raise TypeError(f"{name} must be a floating-point tensor, got {_type(images)}")
    if images.dtype != model.output.weight.dtype:
        raise TypeError(f"{name} are {images.dtype}, but the classifier is {model.output.weight.dtype}: convert one")
    _check_shape(name, images, model)
    if len(images) == 0:
        raise ValueError(f"{name} must hold at least one row, got shape {tuple(images.shape)}")
    if not images.isfinite().all():
        raise ValueError(f"{name} contain NaN or infinity")


def _check_shape(name: str, images: Tensor, model: Classifier) -> None:
    size = model.sizes["image_size"]
    if images.shape[1:] != (model.sizes["colours"], size, size):
        expected = f"(n, {model.sizes['colours']}, {size}, {size})"
        raise ValueError(f"{name} must be {expected} for this classifier, got {tuple(images.shape)}")


def _check_labels(name: str, labels: object, n: int, classes: int) -> None:
    if not isinstance(labels, Tensor) or labels.dtype not in _WHOLE:
        raise TypeError(f"{name} must be a tensor of whole numbers, got {_type(labels)}")
    if labels.shape != (n,):
        raise ValueError(f"{name} must be ({n},), one for each image, got {tuple(labels.shape)}")
    outside = ((labels < 0) | (labels >= classes)).nonzero()
    if len(outside):
        row = int(outside[0])
        raise ValueError(f"{name}[{row}] is {int(labels[row])}, but the classes are 0 to {classes - 1}")


def _check_finite(model: Classifier, epoch: int, lr: float) -> None:
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise RuntimeError(f"fitting the classifier diverged in epoch {epoch}: lower the learning rate, lr={lr}")


def _type(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
