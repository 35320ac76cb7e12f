"""The papers' models, each a function that returns ``(generator, discriminator)``."""

from gan_influence.models.fcgan import fcgan
from gan_influence.models.lqgan import lqgan

__all__ = ["fcgan", "lqgan"]
