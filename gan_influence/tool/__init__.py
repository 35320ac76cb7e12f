"""``gan-influence``: cleanse your own training data. A program on top of this package; nothing else imports it."""

from gan_influence.tool.program import main

__all__ = ["main"]
