"""The papers' data, and a user's own images."""

from gan_influence.datasets.adult import adult
from gan_influence.datasets.digits import digits
from gan_influence.datasets.iclr import NormalSplits, iclr_normal_2d
from gan_influence.datasets.images import ImageFolder, images
from gan_influence.datasets.labelled import LabelledImages, split
from gan_influence.datasets.mnist import mnist
from gan_influence.datasets.newsgroups import newsgroups
from gan_influence.datasets.normal import contaminated_normal_1d, normal_1d, normal_2d
from gan_influence.datasets.tables import Table
from gan_influence.datasets.uci import uci

__all__ = [
    "ImageFolder",
    "LabelledImages",
    "NormalSplits",
    "Table",
    "adult",
    "contaminated_normal_1d",
    "digits",
    "iclr_normal_2d",
    "images",
    "mnist",
    "newsgroups",
    "normal_1d",
    "normal_2d",
    "split",
    "uci",
]
