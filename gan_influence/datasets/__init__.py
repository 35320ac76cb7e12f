"""The papers' data, and a user's own images."""

from gan_influence.datasets.adult import adult
from gan_influence.datasets.cifar10 import CIFAR10_NAMES, cifar10
from gan_influence.datasets.digits import digits
from gan_influence.datasets.iclr import NormalSplits, iclr_normal_2d
from gan_influence.datasets.images import ImageFolder, images
from gan_influence.datasets.labelled import LabelledImages, split
from gan_influence.datasets.mnist import fashion_mnist, mnist
from gan_influence.datasets.newsgroups import newsgroups
from gan_influence.datasets.normal import contaminated_normal_1d, normal_1d, normal_2d
from gan_influence.datasets.pixels import as_images
from gan_influence.datasets.tables import Table
from gan_influence.datasets.uci import uci

__all__ = [
    "CIFAR10_NAMES",
    "ImageFolder",
    "LabelledImages",
    "NormalSplits",
    "Table",
    "adult",
    "as_images",
    "cifar10",
    "contaminated_normal_1d",
    "digits",
    "fashion_mnist",
    "iclr_normal_2d",
    "images",
    "mnist",
    "newsgroups",
    "normal_1d",
    "normal_2d",
    "split",
    "uci",
]
