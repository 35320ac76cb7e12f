"""A user's own training, from a Python file."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan_influence.game import Game
from gan_influence.tool.arguments import Settings
from gan_influence.tool.errors import FEWEST, InputError
from gan_influence.tool.problem import Problem

__all__ = ["problem_of_file", "write_template"]

_REQUIRED = ("game", "data", "schedule", "steps", "optimizer", "metric")
_OPTIONAL = ("options", "held_out", "labels", "paths", "latents", "last", "metric_in_words", "features")
_TEMPLATE = Path(__file__).with_name("template.py")
_HINT = "`gan-influence template` writes a file that works"


def write_template(path: Path) -> None:
    """Write a file for ``--game`` that runs as it is.

    Raises:
        InputError: there is one already.
        OSError: it cannot be written.
    """
    if path.exists():
        raise InputError(f"{path} is there already: give another name")
    path.write_text(_TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")


def problem_of_file(settings: Settings, path: Path) -> Problem:
    """What the file's function ``build()`` returns.

    Raises:
        InputError: there is no such file, it fails, or it returns something else.
    """
    built = _built(path)
    if not isinstance(built, dict):
        raise InputError(
            f"build() of {path} must return a dict with {', '.join(_REQUIRED)}, got {type(built).__name__}: {_HINT}"
        )
    missing = [name for name in _REQUIRED if name not in built]
    unknown = [str(name) for name in built if name not in (*_REQUIRED, *_OPTIONAL)]
    if missing or unknown:
        what = f"lacks {', '.join(missing)}" if missing else f"has {', '.join(unknown)} besides"
        raise InputError(
            f"what build() of {path} returns {what}; it takes {', '.join(_REQUIRED)}, and if you like "
            f"{', '.join(_OPTIONAL)}: {_HINT}"
        )
    if not isinstance(built["game"], Game):
        raise InputError(f"game of {path} must be a gi.Game, got {type(built['game']).__name__}: {_HINT}")
    if settings.steps is not None:
        built = {**built, "steps": settings.steps}
    for name in ("labels", "paths"):
        if built.get(name) is not None:
            built[name] = tuple(map(str, _listed(built[name])))
    built["held_out"] = tuple(built.get("held_out") or ())
    kind = type(built["metric"]).__name__
    problem = Problem(**{"metric_in_words": f"{kind}, as {path.name} builds it.", **built})
    if problem.size < FEWEST:
        raise InputError(f"data of {path} has {problem.size} rows, but at least {FEWEST} are needed")
    return problem


def _built(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"{path} is not there: {_HINT}")
    spec = importlib.util.spec_from_file_location(f"gan_influence_game_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file: {_HINT}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for theirs
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # players that draw their start are to draw the same when a run goes on
            spec.loader.exec_module(module)
            build = getattr(module, "build", None)
            if not callable(build):
                raise InputError(f"{path} has no function build(): {_HINT}")
            return build()
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path} fails: {_where(error, path)}: {_HINT}") from error
    finally:
        sys.path.remove(str(path.parent.resolve()))


def _where(error: Exception, path: Path) -> str:
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    at = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{at}"


def _listed(given: Any) -> list[Any]:
    return given.tolist() if isinstance(given, Tensor) else list(given)
