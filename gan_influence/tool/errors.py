"""What the program refuses."""

__all__ = ["FEWEST", "InputError"]

FEWEST = 50  # rows: fewer neither train a GAN nor show what one of them does


class InputError(ValueError):
    """Something that was given is wrong; the message says what, and what to do."""
