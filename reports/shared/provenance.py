"""What is needed to repeat a run: command, versions, machine, commit."""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import shlex
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from gan_influence import Trace, trees

PACKAGES = ("torch", "numpy", "scipy")

__all__ = [
    "code",
    "data_digest",
    "describe_device",
    "packages",
    "packages_digest",
    "program",
    "provenance",
    "resolve_device",
]


def provenance(command: list[str], device: str) -> dict[str, Any]:
    """Command, package versions, machine, device and commit of this program."""
    return {
        "command": shlex.join(command),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
            "gan-influence": _own_version(),
        },
        "platform": platform.platform(terse=True),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "device": describe_device(device),
        "packages": packages(),
        "code": code(),
        "commit": _commit(),
    }


@cache
def code() -> str:
    """The code that numbers come from: a digest of its syntax trees, which comments do not change, and the commit."""
    root = Path(__file__).parents[2]
    sources = "gan_influence/**/*.py", "reports/experiments/*.py", "reports/parts/*.py", "reports/statistics.py"
    content = hashlib.sha256()
    for file in sorted(file for pattern in sources for file in root.glob(pattern)):
        content.update(f"{file.relative_to(root)}\0{_without_docstrings(file.read_text())}".encode())
    return f"{content.hexdigest()[:12]} (commit {(_commit() or 'none')[:7]})"


def _without_docstrings(source: str) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                del node.body[0]
    return ast.dump(tree)


@cache
def packages_digest() -> str:
    """A fingerprint of the packages' versions: all units of one seed come from the same."""
    return hashlib.sha256(packages().encode()).hexdigest()[:8]


def packages() -> str:
    """The versions of the packages that compute."""
    return ", ".join(f"{package} {version(package)}" for package in PACKAGES)


def data_digest(trace: Trace) -> str:
    """SHA-256 of the training rows, of their numbers in their order; of rows with targets, of these after them."""
    parts = [part.cpu().numpy().tobytes() for part in trees.leaves(trace.data)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def resolve_device(name: str) -> str:
    """``auto`` is ``cuda`` where there is one.

    Raises:
        SystemExit: ``cuda`` was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise SystemExit("--device cuda: torch finds no CUDA device here; use --device cpu or auto")
    return "cuda" if available and name != "cpu" else "cpu"


def describe_device(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else "cpu"


def _own_version() -> str:
    from gan_influence import __version__

    return __version__


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """The checkout's commit, marked where files differ from it; ``None`` outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        ran = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True)
        return ran.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return f"{commit} with changes" if changed else commit


def program(module: str) -> list[str]:
    """The command line that was typed, for a program run with ``python -m``."""
    return ["python", "-m", module, *sys.argv[1:]]
