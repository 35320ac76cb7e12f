"""The program: its commands and exit statuses."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gan_influence.divergence import DivergenceError
from gan_influence.tool.arguments import parsed
from gan_influence.tool.cleansing import cleanse
from gan_influence.tool.userfile import write_template

__all__ = ["main"]

BAD_INPUT, INTERRUPTED = 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, and return its exit status."""
    what = parsed(arguments)
    try:
        with _plain_warnings():
            if isinstance(what, Path):
                write_template(what)
                print(f"{what} runs as it is: gan-influence cleanse --game {what}")
                return 0
            return cleanse(what)
    except KeyboardInterrupt:
        print("\ninterrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, TypeError, IndexError, ImportError, OSError, MemoryError, DivergenceError) as error:
        print(f"gan-influence: error: {error}", file=sys.stderr)
        return BAD_INPUT


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Without the place in the code, which is not the user's."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
        yield
