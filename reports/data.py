"""Experiments on data that need no file."""

from __future__ import annotations

from dataclasses import replace

from reports.experiment import Experiment

__all__ = ["DIGITS", "on_digits"]

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
