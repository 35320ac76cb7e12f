"""The papers' data."""

from gan_influence.datasets.iclr import NormalSplits, iclr_normal_2d
from gan_influence.datasets.normal import contaminated_normal_1d, normal_1d, normal_2d

__all__ = ["NormalSplits", "contaminated_normal_1d", "iclr_normal_2d", "normal_1d", "normal_2d"]
