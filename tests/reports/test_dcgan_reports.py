"""The reports on DCGAN: accuracy (TNNLS 2025) and tracing back (ICLR 2021), their images, and merging of runs."""

import hashlib
import json
import re
import shutil
import sys
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from support.results import cell_of, result_of

import gan_influence as gi
from reports import page, runner
from reports.__main__ import _seeds, main
from reports.data import on_digits
from reports.experiment import Experiment, Preset, Quantity, digest
from reports.experiments import EXPERIMENTS, dcgan_accuracy, dcgan_traceback
from reports.experiments.fcgan_accuracy import JACCARD, RANDOM, TAU
from reports.figures import write_figure
from reports.merging import ensure_mergeable, merge
from reports.parts import dcgan
from reports.parts.agreement import ERROR
from reports.runner import _combine, run
from reports.shared.data import VARIABLE
from reports.statistics import expected_jaccard
from reports.summary import Summary, load_published

ROOT = Path(__file__).parents[2]
ACCURACY, TRACEBACK = EXPERIMENTS["dcgan-accuracy"], EXPERIMENTS["dcgan-traceback"]

TINY_DATA = {
    "rows": 200,
    "lr": 0.01,  # influences ten times as large, and so as far above rounding
    "channels": 4,
    "metric_latents": 200,
    "classifier_epochs": 14,
    "removals": 6,
    "per_unit": 4,
    "critical": 2,
    "doubles": 2,
}
TINY_ACCURACY = {
    **dcgan_accuracy.SMOKE,
    **TINY_DATA,
    "steps": 6,
    "stops": [3, 6],
    "terms": [2, 4],
    "terms_inside": [2],
}
ALL_TERMS = {**TINY_ACCURACY, "terms_inside": TINY_ACCURACY["terms"]}
TINY_TRACEBACK = {**dcgan_traceback.SMOKE, **TINY_DATA, "steps": 6, "trace_back": [1, 3]}
UNTRAINED = {**TINY_TRACEBACK, "classifier_epochs": 1, "validation_rows": 100}


class Here(Executor):
    """Work is done where it is submitted: no process to start, and one thread."""

    def submit(self, function, /, *arguments, **options):
        future = Future()
        try:
            future.set_result(function(*arguments, **options))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def here(tasks, device="cpu"):
    yield Here()


@pytest.fixture(scope="module")
def patched():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "worker_pool", here)
        yield patch


def at(experiment: Experiment, settings: dict, seeds: int = 1) -> Experiment:
    """The experiment with these settings as its preset smoke."""
    return replace(experiment, presets={"smoke": Preset(settings, seeds, as_published=False)})


@pytest.fixture(scope="module")
def ran(tmp_path_factory, patched):
    """One seed of either experiment, tiny."""
    out = tmp_path_factory.mktemp("out")
    results = {
        experiment.name: run(at(experiment, settings), "smoke", None, out, "cpu", ["python"])
        for experiment, settings in ((ACCURACY, TINY_ACCURACY), (TRACEBACK, TINY_TRACEBACK))
    }
    return out, results


@pytest.fixture
def tiny_factual(ran):
    """The factual run of seed 0 of the tiny tracing back, in either precision."""
    out, _ = ran
    (classifier,) = out.glob("dcgan-traceback/units/*/seed-0.classifier.pt")
    return lambda precision="float32": dcgan.factual(
        TINY_TRACEBACK, 0, {"classifier": str(classifier)}, "cpu", precision
    )


def files_of(folder: Path) -> dict:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("seed-*")}


def said(capsys) -> str:
    printed = capsys.readouterr()
    return printed.out + printed.err


# --- published values


def test_fig_1_of_is_and_fid_is_marked_as_read_off():
    assert json.loads((ROOT / "reports/published/dcgan-traceback.json").read_text())["read_off_figure"] is True
    published = load_published("dcgan-traceback")
    assert published.rounding == pytest.approx(0.01, abs=1e-6)
    assert len(published.cells) == 2 * 2 * 5
    of = lambda table, row: [published.cells[table, row, k]["value"] for k in ("1", "5", "10", "20", "50")]  # noqa: E731
    assert of(TAU, "IS") == [0.91, 0.80, 0.68, 0.35, 0.07]
    assert of(TAU, "FID") == [0.95, 0.87, 0.735, 0.44, 0.235]
    assert of(JACCARD, "IS") == [0.78, 0.63, 0.425, 0.235, 0.165]
    assert of(JACCARD, "FID") == [0.82, 0.70, 0.50, 0.265, 0.18]


def test_table_vi_as_published_is_read_twice():
    published = load_published("dcgan-accuracy")
    assert published.reading_error is None
    assert len(published.cells) == 5 * 7
    # A second, independent reading: the column sums of the means, and some cells of each row.
    sums = dict.fromkeys(("100", "200", "500", "1000", "2000", "5000", "10000"), 0.0)
    for (_, _, column), cell in published.cells.items():
        assert cell["p10"] <= cell["value"] <= cell["p90"]
        sums[column] += cell["value"]
    assert [round(total, 2) for total in sums.values()] == [2.91, 2.22, 1.22, 0.92, 0.16, 0.23, -0.02]
    of = lambda row, column: tuple(published.cells["Table VI", row, column][key] for key in ("value", "p10", "p90"))  # noqa: E731
    assert of("ITD", "1000") == (0.58, 0.10, 0.92)
    assert of("ITD", "10000") == (0.14, -0.08, 0.33)
    assert of("AID (M=10)", "100") == (0.48, 0.30, 0.63)
    assert of("AID (M=100)", "1000") == (0.09, -0.05, 0.22)
    assert of("AID (M=1000)", "2000") == (-0.03, -0.16, 0.10)
    assert of("AID (M=10000)", "200") == (0.33, 0.15, 0.50)


def test_the_paper_preset_of_tracing_back_is_iclr_5_1():
    settings = TRACEBACK.presets["paper"].settings
    expected = {"images": "mnist", "rows": 10_000, "validation_rows": 10_000, "metric_latents": 10_000, "steps": 5000}
    expected |= {"batch": 100, "lr": 1e-3, "l2": 1e-3, "l2_of": "kernels", "channels": 8, "metrics": ["IS", "FID"]}
    expected |= {"trace_back": [1, 5, 10, 20, 50], "removals": 200, "critical": 10}
    assert expected.items() <= settings.items()
    assert TRACEBACK.presets["paper"].seeds == 10
    assert [preset for preset, one in TRACEBACK.presets.items() if one.as_published] == ["paper"]


# --- units and what they are combined to


@pytest.mark.parametrize("experiment", [ACCURACY, TRACEBACK])
def test_the_parts_of_a_seed_cover_every_removal_once(experiment):
    for settings in [preset.settings for preset in experiment.presets.values()] + [TINY_TRACEBACK]:
        removed = list(range(settings["removals"]))
        parts = [dcgan.part_of(settings, removed, part) for part in range(dcgan.number_of_parts(settings))]
        assert [row for part in parts for row in part] == removed
        assert all(parts)
        assert settings["doubles"] <= settings["removals"]
        assert settings["steps"] >= max(settings.get("stops", [0]))


def test_no_epoch_is_traced_back_that_was_not_run():
    for preset in TRACEBACK.presets.values():
        for settings in (preset.settings, TRACEBACK.on_digits(preset.settings)):
            steps = settings["rows"] // settings["batch"]
            assert settings["rows"] % settings["batch"] == 0
            assert max(settings["trace_back"]) * steps == settings["steps"]


def traceback_records(settings: dict) -> dict:
    """Records of ITD that is right on IS, and on FID turned around at k = 3; rounding is a tenth of IS's influence."""
    truth = np.array([1.0, -2.0, 3.0, -4.0, 5.0, -6.0])
    records = {}
    for k in (1, 3):
        is_, fid = truth * k, 2 * truth
        sign = 1 if k == 1 else -1
        facts = {"accuracy": 0.97, "data": "d" * 64}
        records[f"itd-{k}-IS"] = {"scores": (1.5 * is_).tolist(), **facts}
        records[f"itd-{k}-FID"] = {"scores": (sign * fid).tolist(), **facts}
        for part, rows in enumerate((slice(0, 4), slice(4, 6))):
            records[f"removals-{k}-{part}"] = {"influence": {"IS": is_[rows].tolist(), "FID": fid[rows].tolist()}}
        for double in range(2):
            records[f"float64-{k}-{double}"] = {"influence": {"IS": [is_[double] / 1.1], "FID": [fid[double]]}}
    assert set(records) == set(TRACEBACK.units(settings))
    return records


def test_combine_measures_tracing_back():
    values = TRACEBACK.combine(TINY_TRACEBACK, traceback_records(TINY_TRACEBACK))
    assert values[TAU]["IS"] == pytest.approx({"1": 1.0, "3": 1.0})
    assert values[TAU]["FID"] == pytest.approx({"1": 1.0, "3": -1.0})
    assert values[TAU][RANDOM] == {"1": 0.0, "3": 0.0}
    chance = expected_jaccard(6, 2)
    assert values[JACCARD]["IS"] == values[JACCARD]["FID"] == {"1": 1.0, "3": 1.0}  # both ends are one set
    assert values[JACCARD][RANDOM] == {"1": chance, "3": chance}
    assert values[ERROR]["IS"] == pytest.approx({"1": 0.5, "3": 0.5})
    assert values[ERROR]["FID"] == pytest.approx({"1": 0.0, "3": 2.0})
    assert values[dcgan.FLOOR]["IS"] == pytest.approx({"1": 0.1, "3": 0.1})
    assert values[dcgan.FLOOR]["FID"] == pytest.approx({"1": 0.0, "3": 0.0})
    assert values["Classifier"] == {"accuracy": {"test images": 0.97}}


def test_combine_takes_every_part_in_its_place():
    records = traceback_records(TINY_TRACEBACK)
    records["removals-3-0"], records["removals-3-1"] = (
        {"influence": {name: [0.0] * size for name in ("IS", "FID")}} for size in (4, 2)
    )
    records["removals-3-1"]["influence"]["IS"] = [0.0, 1.0]  # only the last row has any influence
    error = TRACEBACK.combine(TINY_TRACEBACK, records)[ERROR]
    truth = np.array([0, 0, 0, 0, 0, 1])
    scores = np.array(records["itd-3-IS"]["scores"])
    assert error["IS"]["3"] == pytest.approx(np.linalg.norm(scores - truth))
    assert error["FID"]["3"] is None  # nothing to be relative to


def test_combine_measures_accuracy_at_every_stop():
    truth = np.array([[1.0, -2.0, 3.0, -4.0, 5.0, -6.0], [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]])  # stops, rows
    series = np.stack([np.stack([2 * one, -one]) for one in truth])  # stops, terms, rows
    records = {
        **{f"aid-0-{stop}": {"scores": of_stop.tolist()} for stop, of_stop in zip((3, 6), series, strict=True)},
        **{f"aid-1-{stop}": {"scores": (-3 * of_stop).tolist()} for stop, of_stop in zip((3, 6), series, strict=True)},
        "float64": {"influence": {"IS": (truth[:, :2] / 1.25).tolist(), "FID": truth[:, :2].tolist()}},
        "itd": {"scores": {"IS": truth.tolist(), "FID": (truth / 2).tolist()}, "accuracy": 0.5},
        "removals-0": {"influence": {"IS": truth[:, :4].tolist(), "FID": truth[:, :4].tolist()}},
        "removals-1": {"influence": {"IS": truth[:, 4:].tolist(), "FID": truth[:, 4:].tolist()}},
    }
    assert set(records) == set(ACCURACY.units(ALL_TERMS))
    values = ACCURACY.combine(ALL_TERMS, records)
    both = lambda value: pytest.approx({"3": value, "6": value})  # noqa: E731
    assert values["Table VI"] == {"AID (M=2)": both(1), "AID (M=4)": both(-1), "ITD": both(1)}
    assert values[dcgan_accuracy.TAU_PER_TERM] == {"AID (M=2)": both(-1), "AID (M=4)": both(1)}
    assert values["Kendall's tau, FID"] == {"ITD": both(1)}
    assert values["Jaccard index"]["AID (M=4), IS"] == both(1)
    errors = {row: values[ERROR][row] for row in values[ERROR]}
    inside, per_term = {"AID (M=2)": 1, "AID (M=4)": 2}, {"AID (M=2)": 7, "AID (M=4)": 2}
    assert errors == {
        **{f"{row}, IS": both(value) for row, value in inside.items()},
        **{f"{row}, damped per term, IS": both(value) for row, value in per_term.items()},
        "ITD, IS": both(0),
        "ITD, FID": both(0.5),
    }
    assert values["Slope"]["AID (M=2), IS"] == both(0.5)
    assert values["Slope"]["AID (M=4), damped per term, IS"] == pytest.approx({"3": 1 / 3, "6": 1 / 3})
    assert values["Slope"]["ITD, FID"] == both(2)
    assert values[dcgan.FLOOR] == {"IS": both(0.25), "FID": both(0)}


def test_each_reading_of_the_damping_is_run(monkeypatch, tiny_factual):
    """By the series itself: with gamma = .1 and a learning rate of .001, per term is a damping of 100."""
    settings = {**TINY_ACCURACY, "lr": 1e-3}
    seen = []
    monkeypatch.setattr(dcgan_accuracy, "factual", lambda *_: tiny_factual())

    def aid(trace, metric, terms, damping, at):
        seen.append((damping, terms, at))
        return torch.zeros(1, len(terms), trace.size)

    monkeypatch.setattr(gi, "aid", aid)
    for unit in ("aid-0-3", "aid-1-6"):
        dcgan_accuracy.run_unit(settings, 0, unit, "cpu", {})
    assert seen == [(0.1, [2], [3]), (pytest.approx(100), [2, 4], [6])]


def test_a_series_that_overflows_loses_its_last_terms_only(monkeypatch, tiny_factual):
    trace, metrics, removed = tiny_factual()
    whole = gi.aid

    def overflowing(*arguments, terms, at, **options):
        if at == [6] and max(terms) > 2:
            raise gi.ConvergenceError("the Neumann series overflowed")
        return whole(*arguments, terms=terms, at=at, **options)

    monkeypatch.setattr(gi, "aid", overflowing)
    monkeypatch.setattr(dcgan_accuracy, "factual", lambda *_: (trace, metrics, removed))
    scores = [dcgan_accuracy.run_unit(ALL_TERMS, 0, f"aid-0-{stop}", "cpu", {})["scores"] for stop in (3, 6)]
    lengths = [[one and len(one) for one in of_stop] for of_stop in scores]
    assert lengths == [[6, 6], [6, None]]
    expected = whole(trace, metrics["IS"], terms=2, damping=0.1, at=[6])[0, removed]
    assert scores[1][0] == pytest.approx(expected.tolist(), rel=1e-5)

    truth = np.arange(12.0).reshape(2, 6)
    part = {"influence": {"IS": truth.tolist(), "FID": truth.tolist()}}
    records = dict.fromkeys(("float64", "removals-0"), part) | {
        **{f"aid-0-{stop}": {"scores": of_stop} for stop, of_stop in zip((3, 6), scores, strict=True)},
        **{f"aid-1-{stop}": {"scores": [of_stop.tolist()] * 2} for stop, of_stop in zip((3, 6), truth, strict=True)},
        "itd": {"scores": part["influence"], "accuracy": 0.9},
    }
    values = ACCURACY.combine({**ALL_TERMS, "per_unit": 6}, records)
    both = "AID (M=4), IS"
    lost = [values["Table VI"]["AID (M=4)"]["6"], *(values[table][both]["6"] for table in ("Slope", ERROR))]
    assert lost == [None, None, None]
    assert values["Table VI"]["AID (M=4)"]["3"] is not None
    assert values["Table VI"]["AID (M=2)"]["6"] is not None
    run_of = {"seed": 0, "seconds": 1.0, "data": None, "values": values}
    settings = {**ALL_TERMS, "per_unit": 6}
    summary = Summary(at(ACCURACY, settings), result_of(at(ACCURACY, settings), "smoke", [run_of]))
    assert any("gives no scores at M = 4, T = 6: 1 of 1 seeds." in found for found in ACCURACY.findings(summary))


def test_scores_that_are_all_zero_have_no_slope():
    """As of rows that no minibatch of a short series holds."""
    assert dcgan_accuracy.slope(np.zeros(3), np.ones(3)) is None
    assert dcgan_accuracy.slope(np.array([1.0, 2.0]), np.array([3.0, 6.0])) == pytest.approx(3)


def test_rounding_as_large_as_the_influence_leaves_a_tau_of_a_half():
    assert dcgan.tau_left_by(0.0) == 1.0
    assert dcgan.tau_left_by(1.0) == pytest.approx(0.5)
    random = np.random.default_rng(0)
    truth, noise = random.normal(size=(2, 5000))
    for size in (0.1, 0.5, 2.0):
        assert kendalltau(truth, truth + size * noise).statistic == pytest.approx(dcgan.tau_left_by(size), abs=0.02)


# --- runs


@pytest.mark.parametrize("experiment", [ACCURACY, TRACEBACK])
def test_a_run_fills_every_cell(ran, experiment):
    result = ran[1][experiment.name]
    summary = Summary(at(experiment, result["settings"]), result)
    expected = [
        (quantity.table, row, column)
        for quantity in experiment.quantities
        for row in summary.rows_of(quantity)
        for column in summary.columns_of(quantity)
    ]
    assert [(cell["table"], cell["row"], cell["column"]) for cell in result["cells"]] == expected
    left_out = [cell for cell in result["cells"] if (cell["table"], cell["row"]) == ("Table VI", "AID (M=4)")]
    assert [cell["measured"] for cell in left_out] == [None, None][: len(left_out)]
    assert all(np.isfinite(cell["measured"]) for cell in result["cells"] if cell not in left_out)
    assert all(cell["verdict"] in (None, "not comparable") for cell in result["cells"])
    itd = [c["measured"] for c in result["cells"] if c["table"] == ERROR and not c["row"].startswith("AID")]
    floors = [c["measured"] for c in result["cells"] if c["table"] == dcgan.FLOOR]
    assert max(itd) < 0.15
    assert 0 < max(floors) < 0.15


def test_both_experiments_digest_the_very_rows(ran):
    digests = [
        hashlib.sha256(dcgan.splits(TINY_TRACEBACK, seed)[0].images.numpy().tobytes()).hexdigest() for seed in (0, 1)
    ]
    for result in ran[1].values():
        assert [run["data"] for run in result["runs"]] == digests[: len(result["runs"])]
    assert digests[0] != digests[1]


def test_units_hold_the_influence_on_the_last_epochs_alone(ran, tiny_factual):
    """Independently: by retraining each row by itself, and by the run's own parameters before the last epoch."""
    out, _ = ran
    trace, metrics, removed = tiny_factual()
    unit = lambda name: json.loads(next(out.glob(f"dcgan-traceback/units/*/seed-0.{name}.json")).read_text())  # noqa: E731
    for k in (1, 3):
        retrained = gi.retrain(trace, removed=[removed[4]], last=2 * k)
        for name, metric in metrics.items():
            by_hand = float(metric(retrained) - metric(trace))
            assert unit(f"removals-{k}-1")["influence"][name][0] == pytest.approx(by_hand, rel=0.02, abs=1e-7)
        scores = gi.itd(trace, metrics["IS"], last=2 * k)[removed]
        assert unit(f"itd-{k}-IS")["scores"] == pytest.approx(scores.tolist(), rel=1e-5, abs=1e-9)
    assert unit("itd-1-IS")["scores"] != unit("itd-3-IS")["scores"]


def test_a_second_run_fits_and_retrains_nothing(ran, monkeypatch):
    out, results = ran
    before = files_of(out)
    monkeypatch.setattr(gi.models, "fit_classifier", None)
    monkeypatch.setattr(gi, "counterfactual", None)
    for experiment, settings in ((ACCURACY, TINY_ACCURACY), (TRACEBACK, TINY_TRACEBACK)):
        shutil.copy(out / experiment.name / "result.json", out / "kept.json")
        (out / experiment.name / "result.json").unlink()  # so that it has to be made of the units again
        again = run(at(experiment, settings), "smoke", None, out, "cpu", ["python"])
        assert again["cells"] == results[experiment.name]["cells"]
        shutil.move(out / "kept.json", out / experiment.name / "result.json")
    assert files_of(out) == before


def test_the_double_run_has_the_very_start_rows_and_latents_of_the_single_one(tiny_factual):
    single, double = tiny_factual(), tiny_factual("float64")
    assert torch.equal(double.trace.data, single.trace.data.double())
    for player, parameters in single.trace.parameters(0).items():
        for name, value in parameters.items():
            assert torch.equal(double.trace.parameters(0)[player][name], value.double())
    for t in range(TINY_TRACEBACK["steps"]):
        one, other = single.trace.schedule(t), double.trace.schedule(t)
        assert torch.equal(one.indices, other.indices)
        assert (one.latents.dtype, other.latents.dtype) == (torch.float32, torch.float64)
        assert torch.equal(other.latents, one.latents.double())
    assert double.removed == single.removed
    for name in ("IS", "FID"):
        assert torch.equal(double.metrics[name].latents, single.metrics[name].latents.double())
        assert float(double.metrics[name](double.trace)) == pytest.approx(
            float(single.metrics[name](single.trace)), rel=1e-3
        )
    last = [torch.cat([p.flatten() for p in run.trace.parameters()["generator"].values()]) for run in (single, double)]
    assert not torch.equal(last[1], last[0].double())  # only the arithmetic differs, but it does
    assert torch.allclose(last[1], last[0].double(), atol=1e-5)


# --- the classifier


@pytest.fixture
def fitted(tmp_path):
    prepared = dcgan.prepare(UNTRAINED, 3, tmp_path, "cpu")
    return Path(prepared["classifier"]), prepared


def test_the_classifier_is_fitted_once(fitted, monkeypatch):
    path, prepared = fitted
    written = path.stat().st_mtime_ns
    _, validation, test = dcgan.splits(UNTRAINED, 3)
    model = gi.models.load_classifier(path)
    right = (model(test.images).argmax(1) == test.labels).float().mean()
    assert prepared["accuracy"] == pytest.approx(float(right))
    assert len(validation.labels) == UNTRAINED["validation_rows"]
    monkeypatch.setattr(gi.models, "fit_classifier", None)
    assert dcgan.prepare(UNTRAINED, 3, path.parent, "cpu") == prepared
    assert path.stat().st_mtime_ns == written


def test_the_classifier_sees_validation_images_and_is_judged_on_test_images(tmp_path, monkeypatch):
    given = []
    fit = gi.models.fit_classifier
    monkeypatch.setattr(
        gi.models, "fit_classifier", lambda *data, **how: given.append((data, how)) or fit(*data, **how)
    )
    dcgan.prepare(UNTRAINED, 3, tmp_path, "cpu")
    (((_, on_these, held_out), how),) = given
    _, validation, test = dcgan.splits(UNTRAINED, 3)
    assert torch.equal(on_these.images, validation.images)
    assert torch.equal(held_out.images, test.images)
    assert (how["epochs"], how["batch_size"]) == (1, 32)


def test_a_damaged_classifier_is_set_aside_said_and_fitted_again(fitted, capsys):
    path, prepared = fitted
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert dcgan.prepare(UNTRAINED, 3, path.parent, "cpu") == prepared
    assert path.read_bytes() == whole
    aside = path.with_name(f"{path.name}.set-aside-1")
    assert aside.read_bytes() == whole[: len(whole) // 2]
    message = said(capsys)
    assert f"{path} cannot be used" in message
    assert f"set aside as {aside}" in message
    assert "fitted again" in message


def test_the_digest_of_a_classifier_is_of_its_numbers(fitted):
    path, prepared = fitted
    model = gi.models.load_classifier(path)
    with torch.no_grad():
        model.output.bias[0] += 1e-6
    gi.models.save_classifier(path, model)
    assert dcgan.prepare(UNTRAINED, 3, path.parent, "cpu")["digest"] != prepared["digest"]


# --- images and where they come from


def test_on_digits_no_file_is_needed_and_nothing_is_comparable():
    for experiment in (ACCURACY, TRACEBACK):
        changed = on_digits(experiment)
        for name, preset in changed.presets.items():
            assert not preset.as_published
            assert experiment.files(preset.settings, range(3)) == []
            assert preset.settings["removals"] == experiment.presets[name].settings["removals"]
            assert digest(preset.settings) != digest(experiment.presets["paper"].settings)
        assert changed.presets["smoke"].settings == experiment.presets["smoke"].settings
        assert experiment.files(experiment.presets["paper"].settings, range(3)) == [
            "mnist/train-images-idx3-ubyte.gz",
            "mnist/train-labels-idx1-ubyte.gz",
            "mnist/t10k-images-idx3-ubyte.gz",
            "mnist/t10k-labels-idx1-ubyte.gz",
        ]


def test_the_splits_of_digits_are_disjoint_and_differ_by_seed():
    parts = dcgan.splits(dcgan_traceback.SMOKE, 0)
    assert [len(part.labels) for part in parts] == [900, 800, 97]
    everything = gi.datasets.digits()
    both = [
        sorted(image.numpy().tobytes() for image in images)
        for images in (torch.cat([part.images for part in parts]), everything.images)
    ]
    assert both[0] == both[1]  # every image once
    assert not torch.equal(parts[0].images, dcgan.splits(dcgan_traceback.SMOKE, 1)[0].images)


@pytest.mark.data
def test_the_splits_of_mnist_are_disjoint_and_of_the_papers_sizes():
    training, validation, test = dcgan.splits(TRACEBACK.presets["paper"].settings, 0)
    assert [len(part.labels) for part in (training, validation, test)] == [10_000] * 3
    assert training.images.shape == validation.images.shape == test.images.shape == (10_000, 1, 28, 28)
    assert training.images.dtype == torch.float32
    assert (float(training.images.min()), float(training.images.max())) == (-1, 1)
    of = [{image.numpy().tobytes() for image in part.images} for part in (training, validation, test)]
    assert not of[0] & of[1]
    assert not of[0] & of[2]
    assert not of[1] & of[2]


# --- the program


def call(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["reports", *arguments])
    return main()


def test_listing_names_every_experiment(monkeypatch, capsys):
    assert call(monkeypatch, "--list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(EXPERIMENTS)
    assert any(line.startswith("dcgan-traceback") and "ICLR 2021, Section 5.1, Fig. 1" in line for line in lines)


@pytest.mark.parametrize("preset", ["smoke", "standard", "paper"])
def test_experiments_on_images_run_unnamed_at_smoke_only(tmp_path, monkeypatch, preset):
    began = []
    monkeypatch.setattr(runner, "run", lambda experiment, *_, **__: began.append(experiment.name) or {"runs": []})
    monkeypatch.setattr(page, "write_experiment", lambda *_: None)
    monkeypatch.setattr(page, "write_page", lambda *_: None)
    monkeypatch.setattr("reports.__main__.ensure_files", lambda *_, **__: None)
    assert call(monkeypatch, "--preset", preset, "--out", str(tmp_path)) == 0
    images = {name for name, experiment in EXPERIMENTS.items() if experiment.on_digits is not None}
    assert {"dcgan-accuracy", "dcgan-traceback", "dcgan-cleansing", "stylegan-accuracy"} < images
    # at standard lds takes half an hour, and SGD-influence's data are files
    of_standard = images | {"lds", "sgd-influence-accuracy"}
    left_out = {"smoke": set(), "standard": of_standard, "paper": images}[preset]
    assert set(began) == EXPERIMENTS.keys() - left_out


@pytest.mark.parametrize("name", ["dcgan-accuracy", "dcgan-traceback"])
def test_missing_mnist_is_named_with_every_way_out(tmp_path, monkeypatch, name):
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(SystemExit) as raised:
        call(monkeypatch, name, "--preset", "paper", "--out", str(tmp_path))
    message = str(raised.value)
    assert f"{name} at --preset paper needs mnist/train-images-idx3-ubyte.gz and 3 more" in message
    assert all(way in message for way in ("--data DIR", VARIABLE, "take --data digits"))
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit, match="or choose another preset"):
        call(monkeypatch, "fcgan-accuracy", "--preset", "paper", "--out", str(tmp_path))


def test_digits_for_an_experiment_without_images_is_refused(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="--data digits: lqgan-accuracy has no images; name the experiments"):
        call(monkeypatch, "dcgan-traceback", "lqgan-accuracy", "--data", "digits", "--out", str(tmp_path))


def test_seeds_are_a_number_or_a_range(monkeypatch, capsys):
    assert [list(_seeds(text)) for text in ("3", "1", "2-4", "7-7", "0-1")] == [[0, 1, 2], [0], [2, 3, 4], [7], [0, 1]]
    for text in ("0", "4-2", "-3", "1-", "x", "1-x", "", "1.5"):
        with pytest.raises(SystemExit) as raised:
            call(monkeypatch, "lqgan-accuracy", f"--seeds={text}")
        assert raised.value.code == 2
        assert "argument --seeds" in capsys.readouterr().err


# --- findings and figures


def traceback_runs(taus: list, floor: float = 1e-2, seeds: int = 5) -> list:
    """Runs whose tau on IS is ``taus``, one a k, up to a little by seed; on FID it is always .95."""
    columns = TRACEBACK.columns(TRACEBACK.presets["paper"].settings)
    runs = []
    for seed in range(seeds):
        little = 1e-3 * (seed - 2)
        rows = {"IS": {k: tau + little for k, tau in zip(columns, taus, strict=True)}}
        rows["FID"] = dict.fromkeys(columns, 0.95 + little)
        same = lambda value: {name: dict.fromkeys(columns, value) for name in ("IS", "FID")}  # noqa: E731
        values = {TAU: rows, JACCARD: same(0.6 + little), ERROR: same(0.02), dcgan.FLOOR: same(floor)}
        values[dcgan.FLOOR]["FID"]["50"] = 2 * floor
        values[TAU][RANDOM] = dict.fromkeys(columns, 0.0)
        values[JACCARD][RANDOM] = dict.fromkeys(columns, expected_jaccard(200, 10))
        values["Classifier"] = {"accuracy": {"test images": 0.97}}
        runs.append({"seed": seed, "seconds": 1.0, "data": "0" * 64, "values": values})
    return runs


def test_findings_test_each_claim_of_fig_1_and_speak_of_rounding():
    result = result_of(TRACEBACK, "paper", traceback_runs([0.91, 0.9, 0.685, 0.2, 0.0]))
    verdicts = [cell_of(result, TAU, "IS", k)["verdict"] for k in ("1", "5", "10", "20", "50")]
    assert verdicts == ["agrees", "differs", "agrees", "differs", "differs"]
    found = "\n".join(TRACEBACK.findings(Summary(TRACEBACK, result)))
    assert "IS, better than random order? One-sided t-tests over seeds: tau above 0 at every k but 50" in found
    assert "FID, better than random order? One-sided t-tests over seeds: tau above 0 at every k (largest p" in found
    assert "IS: tau goes from 0.910 at k = 1 to 0.000 at k = 50 (one-sided paired t-test of a drop: p = 0.031)" in found
    assert "1.0e-02 (FID, k = 1) to 2.0e-02 (FID, k = 50) of their size" in found
    assert f"leave a tau of about {2 / np.pi * np.arctan(50):.3f}" in found  # asin(1/sqrt(1 + x^2)) = atan(1/x)
    assert "IS: ITD ranks rows better than Fig. 1 shows (read off it, in brackets): 0.900 at k = 5 (0.8)." in found
    assert "0.950 at k = 5 (0.87), 0.950 at k = 10 (0.735), 0.950 at k = 20 (0.44), 0.950 at k = 50 (0.235)." in found
    few = TRACEBACK.findings(Summary(TRACEBACK, result_of(TRACEBACK, "paper", traceback_runs([0.9] * 5, seeds=3))))
    assert "3 seeds are too few to tell" in few[0]


def test_findings_of_reduced_settings_compare_with_nothing(ran):
    for experiment in (ACCURACY, TRACEBACK):
        result = ran[1][experiment.name]
        tiny = at(experiment, result["settings"])
        found = "\n".join(tiny.findings(Summary(tiny, result)))
        assert "What rounding does to the truth" in found
        assert "better than printed" not in found
        assert "Fig. 1 shows" not in found


def test_findings_of_accuracy_name_printed_values_below_ours():
    settings = ACCURACY.presets["paper"].settings
    stops = ACCURACY.columns(settings)
    line = lambda value: dict.fromkeys(stops, value)  # noqa: E731
    both, metrics = dcgan_accuracy.rows_of_both(settings), ("IS", "FID")
    values = {
        "Table VI": {row: line(0.95 - 0.2 * k) for k, row in enumerate(reversed(ACCURACY.rows(settings)))},
        dcgan_accuracy.TAU_PER_TERM: {row: line(0.6) for row in dcgan_accuracy.aid_rows(settings)},
        "Kendall's tau, FID": {"ITD": line(0.9)},
        "Jaccard index": {row: line(0.5) for row in both},
        "Slope": {row: line(1.0) for row in both},
        ERROR: {row: line(0.1) for row in both},
        dcgan.FLOOR: {name: line(0.01) for name in metrics},
        "Classifier": {"accuracy": {"test images": 0.97}},
    }
    run_of = {"seed": 0, "seconds": 1.0, "data": None, "values": values}
    found = ACCURACY.findings(Summary(ACCURACY, result_of(ACCURACY, "paper", [run_of])))
    assert found[1].startswith("ITD on FID: mean tau 0.900, 0.900")
    assert "(in brackets): 0.950 at T = 500 (0.88), 0.950 at T = 1000 (0.58)" in found[-1]  # at 100 and 200 hardly so
    assert "The logarithm of IS cannot be the reason" in found[-1]
    (by_terms,) = (sentence for sentence in found if sentence.startswith("AID's mean tau differs"))
    assert "M = 10, 100, 1000, 10000 by up to 0.60" in by_terms
    assert "by up to 0.00" in by_terms
    assert "the printed taus by up to 0.02 (T = 100). In how little tau depends on M the second reading is" in by_terms


def test_a_mean_that_says_little_is_told_seed_by_seed():
    summary = Summary.__new__(Summary)
    summary.columns, summary.comparable = ["100", "500"], False
    summary.runs = [{"values": {"Table VI": {"ITD": {"100": 0.9, "500": tau}}}} for tau in (0.95, 0.5, None)]
    said = dcgan_accuracy._scattered(summary, "Table VI")
    assert said == " Seeds differ, with taus of 0.950, 0.500 at T = 500."
    summary.comparable = True
    assert "the paper leaves out two of ten seeds" in dcgan_accuracy._scattered(summary, "Table VI")
    summary.columns = ["100"]
    assert not dcgan_accuracy._scattered(summary, "Table VI")


def test_an_overflow_leaves_the_dependence_on_terms_to_the_other_columns():
    settings = ACCURACY.presets["standard"].settings
    runs = []
    for seed in range(3):
        values = {
            dcgan_accuracy.TAU: {f"AID (M={m})": {"100": m / 2000, "200": 0.3, "500": 0.9} for m in (10, 100, 1000)},
            dcgan_accuracy.TAU_PER_TERM: {
                f"AID (M={m})": {"100": 0.6, "200": 0.3, "500": 0.1} for m in (10, 100, 1000)
            },
        }
        values["Jaccard index"] = {
            row: dict.fromkeys(("100", "200", "500"), 0.5) for row in dcgan_accuracy.rows_of_both(settings)
        }
        values[dcgan_accuracy.TAU]["AID (M=100)"]["200"] = None  # as of scores that are all the same
        runs.append({"seed": seed, "seconds": 1.0, "data": None, "values": values})
    lost = runs[1]["values"]
    lost[dcgan_accuracy.TAU]["AID (M=1000)"]["500"] = lost["Jaccard index"]["AID (M=1000), IS"]["500"] = None
    summary = Summary.__new__(Summary)
    summary.experiment, summary.settings, summary.comparable = ACCURACY, settings, True
    summary.rows, summary.columns = ACCURACY.rows(settings), ACCURACY.columns(settings)
    summary.runs, summary.published = runs, load_published(ACCURACY.name)
    assert dcgan_accuracy._overflows(summary) == [
        "AID's series overflowed in float32 and gives no scores at M = 1000, T = 500: 1 of 3 seeds."
    ]
    (said,) = dcgan_accuracy._dependence_on_terms(summary)
    assert "by up to 0.49 (T = 100) with gamma inside eta" in said  # not T = 500, which is complete for M = 10, 100
    assert said.endswith("(Over T = 100, where no series overflowed.)")


def test_a_second_table_stands_beside_the_printed_one():
    (per_term,) = (quantity for quantity in ACCURACY.quantities if quantity.beside)
    assert per_term.table == dcgan_accuracy.TAU_PER_TERM
    settings = ACCURACY.presets["paper"].settings
    tables = {quantity.table: ACCURACY.rows(settings) for quantity in ACCURACY.quantities}
    both = dcgan_accuracy.rows_of_both(settings)
    tables |= dict.fromkeys(("Jaccard index", "Slope", ERROR), both)
    tables |= {dcgan.FLOOR: ["IS", "FID"]}
    values = {
        table: {row: dict.fromkeys(ACCURACY.columns(settings), 0.5) for row in rows} for table, rows in tables.items()
    }
    values["Classifier"] = {"accuracy": {"test images": 0.97}}
    runs = [{"seed": seed, "seconds": 1.0, "data": None, "values": values} for seed in range(3)]
    cells = result_of(ACCURACY, "paper", runs)["cells"]
    printed = {
        table: {(c["row"], c["column"]): (c["published"], c["verdict"]) for c in cells if c["table"] == table}
        for table in (dcgan_accuracy.TAU, dcgan_accuracy.TAU_PER_TERM)
    }
    assert printed[dcgan_accuracy.TAU_PER_TERM]["AID (M=100)", "100"] == (0.5, "agrees")
    assert printed[dcgan_accuracy.TAU_PER_TERM].items() <= printed[dcgan_accuracy.TAU].items()
    counted = page._block(ACCURACY, result_of(ACCURACY, "paper", runs), "This run")["verdicts"]
    assert sum(counted.values()) == len(printed[dcgan_accuracy.TAU])


def test_the_page_repeats_the_very_seeds_and_data(tmp_path):
    runs = traceback_runs([0.9, 0.8, 0.7, 0.4, 0.1])
    printed = result_of(TRACEBACK, "paper", runs)
    for run_of, seed in zip(printed["runs"], (0, 1, 3, 4, 7), strict=True):
        run_of["seed"] = seed
    digits = result_of(on_digits(TRACEBACK), "paper", runs[:3])
    repeats = []
    for result in (printed, digits):
        page.write_page({"dcgan-traceback": result}, tmp_path / "index.html")
        section = (tmp_path / "index.html").read_text().split('<h2 id="dcgan-traceback">')[1]
        repeats.append(section.split("<pre>")[1].split("</pre>")[0].split("\n"))
        assert ("Fig. 1 shows" in section) == (result is printed)
    command = "python -m reports dcgan-traceback --preset paper"
    assert repeats[0] == [f"{command} --seeds 2", f"{command} --seeds 3-4", f"{command} --seeds 7-7"]
    assert repeats[1] == [f"{command} --data digits --seeds 2", f"{command} --data digits --seeds 3-3"]


@pytest.mark.parametrize("experiment", [ACCURACY, TRACEBACK])
def test_every_figure_is_drawn(tmp_path, ran, experiment):
    result = ran[1][experiment.name]
    summary = Summary(at(experiment, result["settings"]), result)
    diverged = {"seed": 0, "seconds": 1.0, "data": None, "diverged": "training diverged at step 3"}
    nothing = Summary(experiment, result_of(experiment, "paper", [diverged]))
    for drawing in experiment.figures:
        write_figure(drawing, summary, tmp_path)
        assert (tmp_path / f"{drawing.name}.png").stat().st_size > 5000
        write_figure(drawing, nothing, tmp_path)


# --- merging


class Machine:
    """Where a run happens: what it calls itself, what its fitting gives, and what it has done."""

    def __init__(
        self, device: str, processor: str, fitted: bytes = b"fitted", packages: str = "torch 1", code: str = "c0de (1)"
    ):
        self.names = {"device": device, "processor": processor, "packages": packages, "code": code}
        self.fitted, self.done, self.prepared = fitted, [], []


def toy_units(settings: dict) -> list[str]:
    return ["a", "b", "c"]


def toy_combine(settings: dict, records: dict) -> dict:
    return {"Sum": {"line": {"1": float(sum(record["value"] for record in records.values()))}}}


TOY = Experiment(
    name="toy",
    title="",
    source="",
    description="",
    presets={"smoke": Preset({"size": 1}, seeds=2, as_published=False)},
    quantities=(Quantity("Sum", "", decimals=2),),
    rows=lambda settings: ["line"],
    columns=lambda settings: ["1"],
    row_heading="",
    column_heading="",
    units=toy_units,
    run_unit=lambda *_: {},
    combine=toy_combine,
    figures=(),
    findings=lambda summary: [],
)


@pytest.fixture
def on(monkeypatch):
    """``on(machine, out, seeds, merged=...)`` runs the toy experiment on that machine and returns its result."""
    monkeypatch.setattr(runner, "worker_pool", here)

    def run_on(machine, out, seeds=(0, 1), kind="cpu", merged=(), units=("a", "b", "c"), settings=None):
        def prepare(settings, seed, folder, device):
            path = folder / f"seed-{seed}.fit.pt"
            if not path.exists():
                machine.prepared.append(seed)
                path.write_bytes(machine.fitted)
            return {"digest": path.read_bytes().decode()}

        def work(settings, seed, unit, device, prepared):
            if unit not in units:
                raise KeyboardInterrupt
            machine.done.append((seed, unit))
            return {"value": (seed + 1) * (1 + toy_units(settings).index(unit)), "data": "d" * 64}

        toy = replace(TOY, prepare=prepare, run_unit=work)
        if settings is not None:
            toy = replace(toy, presets={"smoke": Preset(settings, seeds=2, as_published=False)})
        monkeypatch.setitem(EXPERIMENTS, "toy", toy)
        versions = {"python": "3", "gan-influence": "0", "torch": "of this machine"}
        monkeypatch.setattr(runner, "provenance", lambda *_: {"cores": 4, "versions": versions, **machine.names})
        monkeypatch.setattr(runner, "packages_digest", lambda: machine.names["packages"])
        return run(toy, "smoke", seeds, out, kind, ["python"], merge(toy, "smoke", merged, out, kind))

    return run_on


def interrupted(on, *arguments, **options) -> None:
    with pytest.raises(KeyboardInterrupt):
        on(*arguments, **options)


HERE, THERE = "cpu here", "cpu there"


def machines() -> tuple[Machine, Machine]:
    return Machine("cpu", HERE), Machine("cpu", THERE)


def test_seeds_finished_in_two_folders_merge_to_the_cells_of_one_run(tmp_path, on):
    ours, theirs = machines()
    whole = on(Machine("cpu", HERE), tmp_path / "whole")
    on(ours, tmp_path / "ours", [0])
    on(theirs, tmp_path / "theirs", [1])
    merged = on(ours, tmp_path / "ours", merged=[tmp_path / "theirs"])
    assert merged["cells"] == whole["cells"]
    assert [run["seed"] for run in merged["runs"]] == [0, 1]
    assert [run["processor"] for run in merged["runs"]] == [HERE, THERE]
    assert merged["provenance"]["processor"] == f"{HERE} (seed 0); {THERE} (seed 1)"
    assert merged["provenance"]["device"] == "cpu"
    assert ours.done == [(0, unit) for unit in "abc"]
    assert json.loads((tmp_path / "ours/toy/result.json").read_text()) == merged


def test_units_of_one_seed_split_over_two_folders_merge_to_the_cells_of_one_run(tmp_path, on):
    ours, theirs = machines()
    whole = on(Machine("cpu", HERE), tmp_path / "whole", [0])
    interrupted(on, ours, tmp_path / "ours", [0], units="a")
    interrupted(on, theirs, tmp_path / "theirs", [0], units="ab")
    assert (ours.done, theirs.done) == ([(0, "a")], [(0, "a"), (0, "b")])
    (own,) = (tmp_path / "ours").rglob("seed-0.a.json")
    before = own.read_bytes()
    merged = on(ours, tmp_path / "ours", [0], merged=[tmp_path / "theirs"])
    assert merged["cells"] == whole["cells"]
    assert ours.done == [(0, "a"), (0, "c")]
    assert own.read_bytes() == before
    assert merged["runs"][0]["processor"] == f"{HERE} and {THERE}"
    assert (
        on(ours, tmp_path / "ours", [0], merged=[tmp_path / "theirs"])["runs"] == merged["runs"]
    )  # once more: nothing
    assert len(ours.done) == 2


def test_what_was_prepared_is_copied_beside_the_units(tmp_path, on):
    ours, theirs = Machine("cpu", HERE, b"fitted here"), Machine("cpu", THERE, b"fitted there")
    interrupted(on, theirs, tmp_path / "theirs", [0], units="ab")
    merged = on(ours, tmp_path / "ours", [0], merged=[tmp_path / "theirs"])
    assert ours.prepared == []
    assert ours.done == [(0, "c")]
    assert merged["runs"][0]["processor"] == f"{HERE} and {THERE}"
    (path,) = (tmp_path / "ours").rglob("*.pt")
    assert path.read_bytes() == b"fitted there"


def test_units_that_rest_on_another_classifier_are_named_and_left(tmp_path, on, capsys):
    ours, theirs = Machine("cpu", HERE, b"fitted here"), Machine("cpu", THERE, b"fitted there")
    interrupted(on, ours, tmp_path / "ours", [0], units="a")
    for seed in (0, 1):
        interrupted(on, theirs, tmp_path / "theirs", [seed], units="ab")
    on(ours, tmp_path / "ours", [0, 1], merged=[tmp_path / "theirs"])
    assert ours.done == [(0, "a"), (0, "b"), (0, "c"), (1, "c")]
    message = said(capsys)
    assert "seed-0.fit.pt is left, and the units of its seed" in message
    assert "set aside" not in message  # they were not even copied


def test_units_made_with_another_classifier_are_set_aside_on_resuming(tmp_path, on, capsys):
    ours = Machine("cpu", HERE, b"first")
    interrupted(on, ours, tmp_path, [0], units="ab")
    (path,) = tmp_path.rglob("*.pt")
    path.unlink()
    ours.fitted = b"second"
    on(ours, tmp_path, [0])
    assert ours.done == [(0, "a"), (0, "b"), (0, "a"), (0, "b"), (0, "c")]
    message = said(capsys)
    assert "its 'prepared' is 'first', not 'second'" in message
    assert "seed-0.a.json.set-aside-1" in message


def test_finished_seeds_of_another_device_are_taken_over_and_named(tmp_path, on):
    ours, theirs = Machine("cpu", HERE), Machine("H100", THERE)
    on(theirs, tmp_path / "theirs", [1, 2], kind="cuda")
    merged = on(ours, tmp_path / "ours", [0, 1], merged=[tmp_path / "theirs"])
    assert [run["device"] for run in merged["runs"]] == ["cpu", "H100", "H100"]
    assert merged["provenance"]["device"] == "cpu (seed 0); H100 (seeds 1, 2)"
    assert merged["device"] == "cpu"
    assert [cell["seeds"] for cell in merged["cells"]] == [3]
    assert ours.done == [(0, unit) for unit in "abc"]
    again = on(ours, tmp_path / "ours", [0, 1])  # a later run without --merge keeps them, and their names
    assert again["runs"] == merged["runs"]
    assert again["provenance"]["device"] == merged["provenance"]["device"]
    moved = on(Machine("cpu", "cpu elsewhere"), tmp_path / "new", [], merged=[tmp_path / "ours"])
    assert moved["provenance"]["device"] == merged["provenance"]["device"]  # through two merges


def test_of_other_packages_seeds_are_taken_over_and_named_and_units_left(tmp_path, on, capsys):
    ours, theirs = Machine("cpu", HERE), Machine("cpu", HERE, packages="torch 2")
    on(theirs, tmp_path / "theirs", [1])
    merged = on(ours, tmp_path / "ours", [0, 1], merged=[tmp_path / "theirs"])
    assert ours.done == [(0, unit) for unit in "abc"]
    assert merged["provenance"]["packages"] == "torch 1 (seed 0); torch 2 (seed 1)"
    alone = on(ours, tmp_path / "alone", [], merged=[tmp_path / "theirs"])
    assert alone["provenance"]["packages"] == "torch 2"
    assert "torch" not in alone["provenance"]["versions"]  # which here are of another
    interrupted(on, theirs, tmp_path / "begun", [2], units="ab")
    on(ours, tmp_path / "more", [2], merged=[tmp_path / "begun"])
    assert ours.done[3:] == [(2, unit) for unit in "abc"]
    assert "has units of other settings, packages or kind of device only" in said(capsys)


def test_one_worker_finishes_a_seed_before_it_prepares_another(tmp_path, on, monkeypatch):
    """Work is done in the order in which it is submitted; two workers begin with two preparations."""
    submitted = []
    submit = Here.submit
    monkeypatch.setattr(
        Here,
        "submit",
        lambda self, function, *of: submitted.append((function.__name__, of[2])) or submit(self, function, *of),
    )
    prepared, of_a_seed = [("_prepared", seed) for seed in range(3)], [[("_unit", seed)] * 3 for seed in range(3)]
    orders = {
        1: [prepared[0], *of_a_seed[0], prepared[1], *of_a_seed[1], prepared[2], *of_a_seed[2]],
        2: [*prepared[:2], *of_a_seed[0], prepared[2], *of_a_seed[1], *of_a_seed[2]],
    }
    for workers, expected in orders.items():
        submitted.clear()
        monkeypatch.setattr(runner, "worker_count", lambda *_, workers=workers: workers)
        on(Machine("cpu", HERE), tmp_path / str(workers), [0, 1, 2])
        assert submitted == expected


def test_unfinished_units_of_another_device_or_settings_are_left(tmp_path, on, capsys):
    ours, theirs = Machine("cpu", HERE), Machine("H100", THERE)
    interrupted(on, theirs, tmp_path / "gpu", [0], kind="cuda", units="ab")
    on(theirs, tmp_path / "other", [0], settings={"size": 2})
    on(ours, tmp_path / "ours", [0], merged=[tmp_path / "gpu", tmp_path / "other"])
    assert ours.done == [(0, unit) for unit in "abc"]
    message = said(capsys)
    assert "has units of other settings, packages or kind of device only" in message
    assert f"{tmp_path / 'other/toy/result.json'} is left: its 'settings_digest' is" in message


def test_seeds_that_are_there_are_kept_when_others_are_merged(tmp_path, on):
    ours, theirs = machines()
    kept = on(ours, tmp_path / "ours", [0])["runs"]
    on(theirs, tmp_path / "theirs", [0])
    assert on(ours, tmp_path / "ours", [0], merged=[tmp_path / "theirs"])["runs"] == kept


def test_damaged_and_foreign_files_are_named_and_left(tmp_path, on, capsys):
    ours, theirs = machines()
    interrupted(on, theirs, tmp_path / "theirs", [0], units="ab")
    (folder,) = (tmp_path / "theirs/toy/units").iterdir()
    whole = (folder / "seed-0.a.json").read_text()
    (folder / "seed-0.a.json").write_text(whole[:30])
    (folder / "seed-0.b.json").write_text(json.dumps({**json.loads(whole), "unit": "b", "made_by": "someone"}))
    (folder / "seed-0.z.json").write_text(whole)
    (folder / "seed-0.c.json.set-aside-1").write_text(whole)
    (folder / "notes.txt").write_text("mine")
    (tmp_path / "theirs/toy/result.json").write_text("{")
    before = {path: path.read_bytes() for path in (tmp_path / "theirs").rglob("*") if path.is_file()}
    on(ours, tmp_path / "ours", [0], merged=[tmp_path / "theirs"])
    assert ours.done == [(0, unit) for unit in "abc"]
    message = said(capsys)
    assert "seed-0.a.json is left: it is not complete JSON" in message
    assert "seed-0.b.json is left: its 'made_by' is 'someone'" in message
    assert "seed-0.z.json is left: 'z' is no unit of this experiment" in message
    assert "result.json is left: it is not complete JSON" in message
    assert "0 units of work copied; finished seeds there: none" in message
    assert {path: path.read_bytes() for path in before} == before
    names = {path.name for path in (tmp_path / "ours/toy/units").rglob("*.*")}
    assert names == {"seed-0.fit.pt", *(f"seed-0.{unit}.json" for unit in "abc")}


def test_a_folder_that_is_no_out_folder_is_refused(tmp_path, on):
    on(Machine("cpu", HERE), tmp_path / "theirs", [0])
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    ensure_mergeable([theirs], ["other", "toy"], ours)
    for folder, reason in (
        (tmp_path / "none", "there is no such folder"),
        (theirs, "the folder of --out itself"),
        (tmp_path, "holds neither EXPERIMENT/result.json nor EXPERIMENT/units of toy; name a folder that --out named"),
        (theirs / "toy", f"of toy; name {theirs}"),
    ):
        with pytest.raises(SystemExit, match=rf"--merge {re.escape(str(folder))}: .*{re.escape(reason)}"):
            ensure_mergeable([folder], ["toy"], theirs if "itself" in reason else ours)


def test_the_program_merges_before_it_runs(tmp_path, monkeypatch, capsys, ran):
    """Half of the units of a real run here, half there, and the classifier there: nothing is left to compute."""
    out, results = ran
    halves = tmp_path / "here", tmp_path / "there"
    for path in out.glob("dcgan-traceback/units/*/seed-*"):
        half = halves[path.name.startswith(("seed-0.itd", "seed-0.classifier"))]
        target = half / path.relative_to(out)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    monkeypatch.setitem(EXPERIMENTS, "dcgan-traceback", at(TRACEBACK, TINY_TRACEBACK))
    monkeypatch.setattr(gi.models, "fit_classifier", None)
    monkeypatch.setattr(gi, "train", None)
    monkeypatch.setattr(page, "write_page", lambda *_: None)
    merged = tmp_path / "merged"
    arguments = ("dcgan-traceback", "--preset", "smoke", "--device", "cpu", "--out", str(merged))
    assert call(monkeypatch, *arguments, "--merge", *map(str, halves)) == 0
    result = json.loads((merged / "dcgan-traceback/result.json").read_text())
    assert result["cells"] == results["dcgan-traceback"]["cells"]
    assert result["provenance"]["device"] == "cpu"
    assert "4 units of work copied; finished seeds there: none" in said(capsys)
    for name in ("table.csv", "table.md", "table.tex", "figure.png", "figure.pdf", "errors.png"):
        assert (merged / "dcgan-traceback" / name).stat().st_size > 500
    with pytest.raises(SystemExit, match="there is no such folder"):
        call(monkeypatch, *arguments, "--merge", str(tmp_path / "nowhere"))


def test_a_seed_carries_every_machine_that_its_units_come_from():
    record = {"seconds": 1.0, "value": 1, "data": "d" * 64}
    machine = lambda name: {"device": "cpu", "processor": name}  # noqa: E731
    records = {"a": {**record, **machine("x")}, "b": {**record, **machine("y")}, "c": {**record, **machine("x")}}
    run_of = _combine(TOY, {}, 0, records)
    assert (run_of["device"], run_of["processor"]) == ("cpu", "x and y")
    assert run_of["values"] == {"Sum": {"line": {"1": 3.0}}}


def test_units_and_seeds_stay_when_the_code_changes_and_say_which_made_them(tmp_path, on, capsys):
    old, new = Machine("cpu", HERE, code="01d (commit a)"), Machine("cpu", HERE, code="2e3 (commit b)")
    on(old, tmp_path, [0])
    interrupted(on, old, tmp_path, [1], units="ab")
    result = on(new, tmp_path)
    assert new.done == [(1, "c")]
    assert "toy: 2 of 3 units are there: 2 by 01d (commit a)" in said(capsys)
    assert [run["code"] for run in result["runs"]] == ["01d (commit a)", "01d (commit a) and 2e3 (commit b)"]
    assert result["provenance"]["code"] == ("01d (commit a) (seed 0); 01d (commit a) and 2e3 (commit b) (seed 1)")


def test_fresh_computes_all_anew_and_keeps_the_old_aside(tmp_path, on, monkeypatch):
    old, new = Machine("cpu", HERE), Machine("cpu", HERE)
    before = on(old, tmp_path)
    monkeypatch.setattr("test_dcgan_reports.run", lambda *given: runner.run(*given, fresh=True))
    assert on(new, tmp_path)["cells"] == before["cells"]
    assert len(new.done) == 6
    assert json.loads((tmp_path / "toy/result.json.set-aside-1").read_text()) == before
    assert len(list((tmp_path / "toy/units").glob("*.set-aside-1/seed-*.json"))) == 6
