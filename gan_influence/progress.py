"""Is there something to show a progress bar on?"""

from __future__ import annotations

import sys

__all__ = ["shown"]


def shown(progress: bool) -> bool:
    """Where it is asked for, and standard error is there and open."""
    return progress and sys.stderr is not None and not getattr(sys.stderr, "closed", False)
