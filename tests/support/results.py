"""Results of made-up runs, as the program stores them."""

from reports.experiment import Experiment, digest
from reports.shared.provenance import provenance
from reports.summary import Summary


def result_of(experiment: Experiment, preset: str, runs: list) -> dict:
    settings = experiment.presets[preset].settings
    result = {
        "experiment": experiment.name,
        "preset": preset,
        "settings": settings,
        "settings_digest": digest(settings),
        "provenance": {**provenance(["python"], "cpu"), "seconds": 1.0},
        "runs": runs,
    }
    result["cells"] = Summary(experiment, result).cells()
    return result
