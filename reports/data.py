"""Experiments on data that need no file, and on files of one's own."""

from __future__ import annotations

from dataclasses import replace

from reports.experiment import Experiment
from reports.shared.data import IMAGES, OPTIONS, file_digest, located

__all__ = ["DIGITS", "on_digits", "on_own_files"]

DIGITS = "digits"


def on_digits(experiment: Experiment) -> Experiment:
    """The experiment on scikit-learn's digits, comparable with nothing printed.

    Raises:
        SystemExit: it is not one on images.
    """
    change = experiment.on_digits
    if change is None:
        raise SystemExit(
            f"--data {DIGITS}: {experiment.name} has no images; name the experiments to run, or leave it out"
        )
    presets = {
        name: replace(preset, settings=change(preset.settings), as_published=False)
        for name, preset in experiment.presets.items()
    }
    return replace(experiment, presets=presets)


def on_own_files(experiment: Experiment, preset: str) -> Experiment:
    """The experiment, its settings naming the user's files by their digests: results of other files are not its own.

    Experiments that read none of :data:`reports.shared.data.OPTIONS` and no folder of images stay as they are.

    Raises:
        SystemExit: the folder holds no image.
    """
    chosen = experiment.presets[preset]
    own = [file for file in experiment.files(chosen.settings, ()) if file in (*OPTIONS, IMAGES)]
    if not own:
        return experiment
    try:
        digests = {file: file_digest(path) for file in own if (path := located(file)) is not None}
    except FileNotFoundError as error:
        raise SystemExit(f"--data: {error}") from error
    settings = {**chosen.settings, "files": digests}
    return replace(experiment, presets={**experiment.presets, preset: replace(chosen, settings=settings)})
