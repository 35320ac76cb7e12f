"""The papers' models, each a function that returns ``(generator, discriminator)``."""

from gan_influence.models.lqgan import lqgan

__all__ = ["lqgan"]
