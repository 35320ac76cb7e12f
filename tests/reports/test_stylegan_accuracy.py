"""The report on how right scores of StyleGAN's fine-tuning are, and the problem that it shares with cleansing."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from support.results import result_of
from torch import nn

import gan_influence as gi
from reports.__main__ import main
from reports.data import on_own_files
from reports.experiments import EXPERIMENTS, stylegan_accuracy
from reports.experiments.stylegan_accuracy import (
    ALL,
    CODE,
    EXACT,
    FIRST,
    FLOOR,
    ONE,
    SETS,
    SINGLE,
    SLOPE,
    SUMS,
    TAU,
    column,
    fraction_of,
)
from reports.figures import write_figure
from reports.page import write_experiment
from reports.parts import cats
from reports.parts.agreement import ERROR
from reports.runner import made_by, result_identity
from reports.shared.data import VARIABLE, located
from reports.shared.stylegan import StyleGANCost, as_if, first_order, published_aid, shortcut
from reports.shared.workers import worker_pool
from reports.summary import Summary

ACCURACY = EXPERIMENTS["stylegan-accuracy"]
ROOT = Path(__file__).parents[2]
TINY = {
    **stylegan_accuracy.SMOKE,
    "pretraining_rows": 40,
    "pretraining_steps": 3,
    "classifier_rows": 100,
    "classifier_epochs": 1,
    "rows": 24,
    "validation_rows": 80,
    "test_rows": 70,
    "metric_latents": 70,
    "channels": 2,
    "style_size": 4,
    "epochs": 2,
    "removals": 3,
    "sets": 2,
    "share": 0.1,
    "per_unit": 3,
    "terms": 3,
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return ACCURACY.prepare(TINY, 0, tmp_path_factory.mktemp("prepared"), "cpu")


@pytest.fixture(scope="module")
def given(prepared):
    return cats.cats(TINY, 0, prepared, "cpu")


@pytest.fixture(scope="module")
def records(prepared):
    return {unit: ACCURACY.run_unit(TINY, 0, unit, "cpu", prepared) for unit in ACCURACY.units(TINY)}


@pytest.fixture(scope="module")
def values(records):
    return ACCURACY.combine(TINY, records)


# --- the problem


def test_parts_are_disjoint_and_of_their_kinds():
    parts, digits = cats.parts_of(TINY, 0), gi.datasets.digits()
    seen = [image.numpy().tobytes() for part in parts[1:] for image in part]
    of_kinds = {
        image.numpy().tobytes() for image, label in zip(digits.images, digits.labels, strict=True) if label in (3, 5, 9)
    }
    assert len(set(seen)) == 24 + 80 + 70
    assert set(seen) <= of_kinds
    assert not of_kinds & {image.numpy().tobytes() for image in parts.pretraining}


def test_what_is_fine_tuned_is_the_pretrained_game_through_adapters(prepared, given):
    pretrained = cats._read(Path(prepared["pretrained"]))
    generator = given.trace.game.players["generator"].module
    frozen = dict(generator.named_parameters())
    assert not any(value.requires_grad for name, value in frozen.items() if name.startswith("mapping"))
    before = "conv2.parametrizations.weight.original"
    kept = frozen[f"blocks.0.{before}"]
    assert torch.equal(kept, pretrained["generator"]["blocks.0.conv2.weight"].double())
    assert given.trace.steps == 6
    players = given.trace.game.players.values()
    assert given.trace.game.size == sum(v.numel() for one in players for v in gi.adapters(one.module).values())


def test_metrics_have_images_and_latents_of_their_own(given):
    parts = cats.parts_of(TINY, 0)
    features = given.features.features(parts.test.double())
    assert torch.allclose(given.test.mean, features.mean(0).double(), atol=1e-6)
    assert not torch.equal(given.test.latents["z"], given.validation.latents["z"])


def test_everything_is_made_once_and_what_is_damaged_again(prepared, tmp_path, monkeypatch):
    folder = Path(prepared["run"]).parent
    monkeypatch.setattr(cats, "_pretrained", lambda *a: pytest.fail("pretrained twice"))
    monkeypatch.setattr(cats, "_classifier", lambda *a: pytest.fail("fitted twice"))
    assert ACCURACY.prepare(TINY, 0, folder, "cpu") == prepared
    for name in ("features", "pretrained", "run"):
        (tmp_path / f"seed-0.{name}.pt").write_bytes((folder / f"seed-0.{name}.pt").read_bytes())
    run = tmp_path / "seed-0.run.pt"
    run.write_bytes(run.read_bytes()[:-9])
    assert ACCURACY.prepare(TINY, 0, tmp_path, "cpu")["digest"] == prepared["digest"]
    assert len(list(tmp_path.glob("seed-0.run.pt.set-aside*"))) == 1


def test_pretrained_players_that_are_damaged_are_trained_again(prepared, tmp_path):
    folder = Path(prepared["run"]).parent
    for name in ("features", "pretrained", "run"):
        (tmp_path / f"seed-0.{name}.pt").write_bytes((folder / f"seed-0.{name}.pt").read_bytes())
    damaged = tmp_path / "seed-0.pretrained.pt"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert ACCURACY.prepare(TINY, 0, tmp_path, "cpu")["digest"] == prepared["digest"]
    assert damaged.read_bytes() == (folder / "seed-0.pretrained.pt").read_bytes()
    assert len(list(tmp_path.glob("seed-0.pretrained.pt.set-aside*"))) == 1


# --- files of one's own


class Features(nn.Module):
    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        found = images.mean(3).flatten(1)
        return found if return_features else found[:, :1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setenv("GAN_INFLUENCE_DATA", str(tmp_path))
    (tmp_path / "stylegan" / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k in range(90):
        pixels = rng.integers(0, 256, (11, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "stylegan" / "images" / f"{k}.png")
    torch.jit.script(Features()).save(str(tmp_path / "stylegan" / "features.pt"))
    return tmp_path / "stylegan"


OWN = {**TINY, "images": "folder", "rows": 16, "validation_rows": 35, "test_rows": 35, "resolution": 8, "epochs": 1}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_ones_own_images_checkpoint_and_features_are_used(folder, monkeypatch, tmp_path):
    generator, discriminator = cats._players(OWN, 5)
    loaded = []

    def load(path, *players):
        loaded.append(path)
        for player, other in zip(players, (generator, discriminator), strict=True):
            player.load_state_dict(other.state_dict())

    monkeypatch.setattr(gi.models, "load_style_checkpoint", load)
    monkeypatch.setattr(cats, "BATCH", 8)
    assert ACCURACY.files(OWN, [0]) == ["stylegan/checkpoint.pt", "stylegan/features.pt", "stylegan/images"]
    prepared = ACCURACY.prepare(OWN, 0, tmp_path, "cpu")
    given = cats.cats(OWN, 0, prepared, "cpu")
    assert loaded
    assert set(loaded) == {folder / "checkpoint.pt"}
    assert given.trace.size == 16
    levels = (given.test_images.double() + 1) * 127.5
    assert torch.allclose(given.test.mean, levels.mean(3).flatten(1).mean(0), rtol=1e-6)


@pytest.fixture
def at_paper(monkeypatch):
    """``program(*arguments)``: what ``python -m reports`` would run, at a paper's preset that is small."""
    for variable in (VARIABLE, "GAN_INFLUENCE_CHECKPOINT", "GAN_INFLUENCE_FEATURES"):
        monkeypatch.setenv(variable, "")
    presets = {**ACCURACY.presets, "paper": replace(ACCURACY.presets["paper"], settings=OWN)}
    monkeypatch.setitem(EXPERIMENTS, "stylegan-accuracy", replace(ACCURACY, presets=presets))
    began = []
    monkeypatch.setattr("reports.runner.run", lambda experiment, *_, **__: began.append(experiment) or {"runs": []})
    monkeypatch.setattr("reports.page.write_experiment", lambda *_: None)
    monkeypatch.setattr("reports.page.write_page", lambda *_: None)

    def program(*arguments):
        monkeypatch.setattr("sys.argv", ["reports", "stylegan-accuracy", *map(str, arguments)])
        main()
        return began.pop()

    return program


@pytest.fixture
def own(tmp_path):
    """A folder of images, and two files beside it."""
    from PIL import Image

    (tmp_path / "cats").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / "cats" / "a.png")
    for name in ("players.pt", "inception.pt"):
        (tmp_path / name).write_text(name)
    return tmp_path


def options_of(own):
    return "--data", own / "cats", "--checkpoint", own / "players.pt", "--features", own / "inception.pt"


def test_files_named_on_the_command_line_are_where_workers_look(at_paper, own):
    at_paper("--preset", "paper", "--out", own / "out", *options_of(own))
    found = {"stylegan/checkpoint.pt": "players.pt", "stylegan/features.pt": "inception.pt", "stylegan/images": "cats"}
    with worker_pool(1) as pool:
        assert [pool.submit(located, file).result() for file in found] == [own / path for path in found.values()]
    (own / "cats" / "stylegan" / "images").mkdir(parents=True)
    assert located("stylegan/images") == own / "cats" / "stylegan" / "images"


@pytest.mark.parametrize("changed", ["players.pt", "inception.pt", "cats/b.png"])
def test_results_of_other_files_are_not_taken_up(at_paper, own, changed):
    arguments = "--preset", "paper", "--out", own / "out", *options_of(own)
    before, again = (at_paper(*arguments).presets["paper"].settings for _ in range(2))
    assert made_by(before, "cpu") == made_by(again, "cpu")
    assert {**OWN, "files": before["files"]} == before
    (own / changed).write_text("another")
    after = at_paper(*arguments)
    assert made_by(after.presets["paper"].settings, "cpu") != made_by(before, "cpu")
    assert result_identity(after, after.presets["paper"].settings) != result_identity(after, before)


def test_results_without_files_of_ones_own_are_what_they_were(at_paper, own):
    for preset in ("smoke", "standard"):
        assert on_own_files(ACCURACY, preset) is ACCURACY
    assert at_paper("--preset", "smoke", "--out", own / "out").presets["smoke"] == ACCURACY.presets["smoke"]


def test_files_that_are_missing_are_named_with_their_options(at_paper, own, capsys):
    paper = "--preset", "paper", "--out", own / "out"
    with pytest.raises(SystemExit, match=r"--checkpoint \S*none.pt: there is no such file"):
        at_paper(*paper, "--checkpoint", own / "none.pt")
    with pytest.raises(SystemExit, match=r"needs stylegan/checkpoint.pt and 2 more, and no data folder is named.*DIR"):
        at_paper(*paper)
    with pytest.raises(SystemExit, match=r"needs stylegan/features.pt, .*--data DIR .*, or --features FILE by itself,"):
        at_paper(*paper, "--data", own / "cats", "--checkpoint", own / "players.pt")
    (own / "cats" / "a.png").unlink()
    with pytest.raises(SystemExit, match=r"--data: .*cats holds no image"):
        at_paper(*paper, *options_of(own))
    with pytest.raises(SystemExit):
        at_paper("--preset", "standard", "--features", own / "inception.pt")
    assert "stylegan-accuracy at --preset standard reads no such file" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_files_that_are_none_are_named(folder, tmp_path):
    (folder / "features.pt").write_bytes(b"no script")
    with pytest.raises(ValueError, match=r"--features .*features.pt is no file of features \(TorchScript\)"):
        cats.Inception(folder / "features.pt")
    with pytest.raises(ValueError, match="holds 90 images, but 210 are needed"):
        cats.parts_of({**OWN, "rows": 140}, 0)


class Pixels(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_script_that_gives_no_features_is_named(tmp_path):
    torch.jit.script(Pixels()).save(str(tmp_path / "pixels.pt"))
    with pytest.raises(
        ValueError, match=r"--features .*pixels.pt gives something else than features, of shape \(images"
    ):
        cats.Inception(tmp_path / "pixels.pt")(torch.zeros(2, 3, 8, 8))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "has no 'g_running', where the StyleGANGenerator would be"),
        ({"g_running": {"style.1.linear.weight_orig": torch.zeros(3, 3)}}, "has shape .3, 3., but"),
        (None, "no checkpoint that torch can read"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named_with_its_first_parameter_that_does_not(
    folder, tmp_path, content, message
):
    if content is None:
        (folder / "checkpoint.pt").write_bytes(b"nothing")
    else:
        torch.save(content, folder / "checkpoint.pt")
    with pytest.raises(ValueError, match=rf"--checkpoint {folder}/checkpoint.pt: .*{message}"):
        ACCURACY.prepare(OWN, 0, tmp_path, "cpu")


@pytest.mark.parametrize(
    ("shape", "message"),
    [((8, 7, 3), r"small.png is 8 x 7 \(height x width\), less than the 8 x 8"), ((8, 8), "is grey")],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_ones_own_images_are_neither_enlarged_nor_coloured(folder, shape, message):
    from PIL import Image

    Image.fromarray(np.zeros(shape, dtype=np.uint8)).save(folder / "images" / "small.png")
    with pytest.raises(ValueError, match=message):
        cats.parts_of(OWN, 0)


# --- the experiment


def test_truth_is_retraining_without_the_rows(records, given):
    removals = stylegan_accuracy.removed(TINY, 0, given)
    assert [len(own) for own in removals] == [1, 1, 1, 2, 2]
    assert len({row for own in removals for row in own}) == 7
    for began, last in (("one", 3), ("all", None)):
        found = [value for part in (0, 1) for value in records[f"{began}-truth{part}"]["influence"]]
        expected = [
            float(given.validation(gi.retrain(given.trace, own, last=last))) - float(given.validation(given.trace))
            for own in removals
        ]
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-12)


def test_exact_scores_are_what_a_small_share_of_a_row_does(values):
    for share, allowed in ((1e-4, 1e-2), (1e-2, 0.1)):
        at = column(ONE, fraction_of(share))
        assert values[TAU][EXACT][at] == 1
        assert values[SLOPE][EXACT][at] == pytest.approx(1, abs=allowed)
        assert values[ERROR][EXACT][at] < allowed


def test_every_method_is_what_its_name_says(records, given):
    removals, trace, metric = stylegan_accuracy.removed(TINY, 0, given), given.trace, given.validation
    batch, none = StyleGANCost("batch", "mean"), StyleGANCost("batch", "none")
    expected = {
        "exact": gi.itd(trace, metric, last=3),
        "denominators": shortcut(trace, metric, batch, moments="exact", last=3),
        "penalty": shortcut(trace, metric, StyleGANCost("kept", "none"), moments="exact", last=3),
        "moments": shortcut(trace, metric, StyleGANCost(), moments="constant", last=3),
        "paper": shortcut(trace, metric, batch, moments="constant", last=3),
        "small": 0.01 * shortcut(trace, metric, StyleGANCost(), moments="exact", scale=0.01, last=3),
        "code": 0.01 * shortcut(trace, metric, none, moments="code", scale=0.01, last=3),
        "sum": first_order(trace, metric, StyleGANCost(), moments="exact", last=3),
        "aid": gi.aid(as_if(trace, none), metric, terms=3, scale=0.001),
        "published": published_aid(trace, metric, terms=3, scale=0.001),
    }
    for key, scores in expected.items():
        assert records[f"one-{key}"]["scores"] == pytest.approx([float(scores[own].sum()) for own in removals]), key
    code = shortcut(trace, metric, none, moments="code", scale=0.001)
    assert records["all-code"]["scores"] == pytest.approx([0.001 * float(code[own].sum()) for own in removals])


def test_cells_compare_scores_with_the_truth_and_with_the_sum(records, values):
    truth = [value for part in (0, 1) for value in records[f"all-truth{part}"]["influence"]]
    code, total = (records[f"all-{key}"]["scores"] for key in ("code", "sum"))
    for kind, own in ((SINGLE, slice(0, 3)), (SETS, slice(3, 5))):
        at = column(ALL, kind)
        assert values[TAU][CODE][at] == pytest.approx(kendalltau(code[own], truth[own]).statistic)
        assert values[SUMS][CODE][at] == pytest.approx(kendalltau(code[own], total[own]).statistic)
        assert values[SUMS][FIRST][at] == 1
        off = np.linalg.norm(np.array(code[own]) - truth[own]) / np.linalg.norm(truth[own])
        assert values[ERROR][CODE][at] == pytest.approx(off)
    rounding = [value for part in (0, 1) for value in records[f"all-truth{part}"]["rounding"]]
    size = np.sqrt(np.mean(np.array(truth[:3]) ** 2))
    assert values[FLOOR]["rounding"][column(ALL, SINGLE)] == pytest.approx(np.sqrt(np.mean(np.square(rounding))) / size)


def test_an_estimate_that_does_not_converge_has_no_cell(records, monkeypatch, prepared):
    def fails(*arguments):
        raise gi.ConvergenceError("the series grows")

    monkeypatch.setitem(stylegan_accuracy.BY_KEY, "aid", stylegan_accuracy.Method(fails, "aid"))
    record = ACCURACY.run_unit(TINY, 0, "one-aid", "cpu", prepared)
    assert record == {"scores": None, "failed": "the series grows"}
    found = ACCURACY.combine(TINY, {**records, "one-aid": record})
    assert found[TAU]["AID"][column(ONE, SINGLE)] is None
    assert found[TAU]["AID"][column(ALL, SINGLE)] is not None


def test_results_of_before_a_row_was_added_are_summed_up_without_it(values, tmp_path):
    """And beside a run that has the row, this one's is all that there is."""
    added = "AID as in the published code"
    old = {table: {row: own for row, own in of.items() if row != added} for table, of in values.items()}
    experiment = replace(ACCURACY, presets={"smoke": replace(ACCURACY.presets["smoke"], settings=TINY)})
    before, after = ({"seed": k, "seconds": 1.0, "values": own} for k, own in enumerate((old, values)))
    result = result_of(experiment, "smoke", [before])
    assert {cell["row"] for cell in result["cells"] if cell["table"] == TAU} == set(ACCURACY.rows(TINY)) - {added}
    summary = Summary(experiment, result)
    write_figure(experiment.figures[0], summary, tmp_path)
    write_experiment(experiment, result, tmp_path)
    assert added not in "".join(experiment.findings(summary)) + (tmp_path / "table.md").read_text()
    cells = [cell for cell in result_of(experiment, "smoke", [before, after])["cells"] if cell["table"] == TAU]
    assert {cell["row"]: cell["seeds"] for cell in cells} == {
        row: 1 if row == added else 2 for row in ACCURACY.rows(TINY)
    }


def test_the_committed_result_is_drawn_as_it_is(tmp_path):
    result = json.loads((ROOT / "reports/results/stylegan-accuracy.json").read_text())
    write_experiment(ACCURACY, result, tmp_path)
    assert Summary(ACCURACY, result).cells() == result["cells"]


def test_the_figure_is_drawn_and_the_question_answered(values, tmp_path):
    experiment = replace(ACCURACY, presets={"smoke": replace(ACCURACY.presets["smoke"], settings=TINY)})
    runs = [{"seed": k, "seconds": 1.0, "values": values} for k in range(2)]
    summary = Summary(experiment, result_of(experiment, "smoke", runs))
    write_figure(experiment.figures[0], summary, tmp_path)
    assert (tmp_path / "figure.png").exists()
    found = "\n".join(experiment.findings(summary))
    assert found.count("ordered like the truth, or like a first-order sum?") == 7
    assert f"{column(ONE, fraction_of(1e-4))}: exact ITD has tau 1.00 [1.00, 1.00]" in found
