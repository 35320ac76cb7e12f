"""What the command line says."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gan_influence.tool.planting import KINDS

__all__ = ["Settings", "parsed"]

_STATUS = """exit status: 0 all went well; 2 something given is wrong, and the message says what; 3 the scores
are not to be trusted on this run, so that nothing is recommended; 130 interrupted: the same command goes on"""


def _number(kind: Callable[[str], Any], holds: Callable[[Any], bool], wanted: str) -> Callable[[str], Any]:
    """What reads a number from the command line."""

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not holds(value):
            raise argparse.ArgumentTypeError(f"must be {wanted}, got {text}")
        return value

    return read


_whole = _number(int, lambda value: value >= 1, "a whole number >= 1")
_seed = _number(int, lambda value: value >= 0, "a whole number >= 0")
_positive = _number(float, lambda value: 0 < value < math.inf, "a number above 0")
_share = _number(float, lambda value: 0 < value < 1, "a share in (0, 1)")
_last = _number(lambda text: 0 if text == "all" else int(text), lambda value: value >= 0, "a number of steps, or 'all'")


@dataclass(frozen=True)
class Settings:
    """Of ``cleanse``, and of ``demo``, which is a ``cleanse`` of digits into which something was planted.

    Attributes:
        folder, game, data: where rows come from; one of them is given.
        demo: what is planted into the training rows, one of :data:`gan_influence.tool.planting.KINDS`.
        out: the folder to write to.
        resize, skip_unreadable: how images are read.
        players: of the built-in GAN: ``"dcgan"``, or ``"linear"``, for a demonstration.
        steps, batch_size, lr, channels, held_out, seed: of the built-in GAN; ``None`` leaves it the choice.
        estimator, last, terms: how rows are scored; ``last=0`` stands for all steps.
        rows: how many are retrained without, to see whether scores are to be trusted.
        rate, count: which share, or how many, are removed at most.
        retrain, untrusted, estimate: what to do besides, nevertheless, or instead.
        device: where to train.
        quiet: no progress bars.
    """

    folder: Path | None = None
    game: Path | None = None
    data: str | None = None
    demo: str | None = None
    out: Path = Path("cleansed")
    resize: int | None = None
    skip_unreadable: bool = False
    players: str = "dcgan"
    steps: int | None = None
    batch_size: int = 64
    lr: float | None = None
    channels: int | None = None
    held_out: float = 0.3
    seed: int = 0
    estimator: str = "itd"
    last: int | None = None
    terms: int = 100
    rows: int = 8
    rate: float | None = None
    count: int | None = None
    retrain: bool = False
    untrusted: bool = False
    estimate: bool = False
    device: str = "auto"
    quiet: bool = False


def parsed(arguments: Sequence[str] | None) -> Settings | Path:
    """The settings of ``cleanse`` or ``demo``; of ``template`` the file to write.

    Raises:
        SystemExit: of status 2, with a message, where the arguments make no sense.
    """
    parser = argparse.ArgumentParser(
        prog="gan-influence", description="Find the training rows that make a GAN worse, and train without them."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _cleanse(commands)
    _demo(commands)
    template = commands.add_parser("template", help="write a file for --game, which runs as it is")
    template.add_argument("path", nargs="?", type=Path, default=Path("game.py"), metavar="FILE.py")
    given = parser.parse_args(arguments)
    if given.command == "template":
        return given.path
    if given.command == "cleanse" and (given.folder, given.game, given.data).count(None) != 2:
        parser.error("cleanse needs one of FOLDER, --game FILE.py and --data digits")
    if given.command == "cleanse" and given.demo and given.game:
        parser.error("--demo plants something into images: it needs FOLDER or --data digits")
    names = {field.name for field in fields(Settings)}
    return Settings(**{name: value for name, value in vars(given).items() if name in names})


def _cleanse(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "cleanse", help="score the rows of your data, and remove those that do harm", epilog=_STATUS
    )
    source = parser.add_argument_group("data, one of")
    source.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="of images; of sub-folders, one a label")
    source.add_argument(
        "--game", type=Path, metavar="FILE.py", help="a training of your own: see gan-influence template"
    )
    source.add_argument("--data", choices=["digits"], help="scikit-learn's 1797 digits of 8 x 8 pixels")
    parser.add_argument("--demo", choices=KINDS, help="plant this into the training rows, and see what is found of it")
    images = parser.add_argument_group("images")
    images.add_argument("--resize", type=int, metavar="PIXELS", help="to squares of 28, 32 or 64")
    images.add_argument("--skip-unreadable", action="store_true", help="leave out what cannot be read")
    _common(parser)


def _demo(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "demo", help="plant contamination into digits, and see what is found of it", epilog=_STATUS
    )
    parser.add_argument("demo", nargs="?", choices=KINDS, default=KINDS[0], help="default: %(default)s")
    parser.add_argument(
        "--players",
        choices=["linear", "dcgan"],
        default="linear",
        help="linear and quadratic ones, whose training settles, or the DCGAN of cleanse; default: %(default)s",
    )
    parser.set_defaults(data="digits")
    _common(parser)


def _common(parser: argparse.ArgumentParser) -> None:
    default = Settings()
    parser.add_argument("--out", type=Path, default=default.out, metavar="DIR", help="default: %(default)s")
    parser.add_argument("--estimate", action="store_true", help="say what it takes in time and memory, and stop")
    _training(parser.add_argument_group("the built-in GAN"), default)
    _scoring(parser.add_argument_group("scores"), default)
    removal = parser.add_argument_group("removal")
    at_most = removal.add_mutually_exclusive_group()
    at_most.add_argument("--rate", type=float, help="remove at most this share of the rows, default: 0.05")
    at_most.add_argument("--count", type=int, help="remove at most so many rows")
    removal.add_argument("--retrain", action="store_true", help="train without them, and compare on held-out data")
    parser.add_argument("--device", default=default.device, help="auto, cpu or cuda")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def _training(training: argparse._ArgumentGroup, default: Settings) -> None:
    training.add_argument("--steps", type=_whole, metavar="T", help="default: 1500")
    training.add_argument(
        "--batch-size", type=_whole, default=default.batch_size, metavar="B", help="default: %(default)s"
    )
    training.add_argument("--lr", type=_positive, help="default: 0.001, of Adam; 0.1, of SGD, for linear players")
    training.add_argument("--channels", type=_whole, help="of every layer of the DCGAN, default: 16")
    training.add_argument(
        "--held-out",
        type=_share,
        default=default.held_out,
        metavar="SHARE",
        help="of the images: half to score by, half to judge by",
    )
    training.add_argument("--seed", type=_seed, default=default.seed)


def _scoring(scoring: argparse._ArgumentGroup, default: Settings) -> None:
    scoring.add_argument("--estimator", choices=["itd", "aid"], default=default.estimator, help="default: %(default)s")
    scoring.add_argument(
        "--last",
        type=_last,
        metavar="K",
        help="trace back, and retrain, that many last steps, or 'all'; default: ten epochs with ITD and the DCGAN",
    )
    scoring.add_argument(
        "--terms", type=_whole, default=default.terms, metavar="M", help="of AID, default: %(default)s"
    )
    scoring.add_argument(
        "--rows", type=_whole, default=default.rows, help="retrained without to check trust, default: %(default)s"
    )
    scoring.add_argument("--untrusted", action="store_true", help="recommend removals all the same")
