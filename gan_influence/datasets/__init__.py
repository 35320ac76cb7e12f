"""The papers' data."""

from gan_influence.datasets.normal import contaminated_normal_1d, normal_1d

__all__ = ["contaminated_normal_1d", "normal_1d"]
