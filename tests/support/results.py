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


def cell_of(result: dict, table: str, row: str, column: str) -> dict:
    """The cell of a result at that place."""
    return next(c for c in result["cells"] if (c["table"], c["row"], c["column"]) == (table, row, column))
