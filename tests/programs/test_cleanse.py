"""``gan-influence``, end to end: what it writes, what it refuses, and that it goes on where it was stopped."""

import csv
import importlib
import math
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gan_influence as gi
from gan_influence.history import History
from gan_influence.tool import main
from gan_influence.tool.arguments import Settings
from gan_influence.tool.builtin import PrincipalComponents, problem_of_images
from gan_influence.tool.demonstration import Demonstration, Found
from gan_influence.tool.folder import opened, same_threads
from gan_influence.tool.linear import Quadratic
from gan_influence.tool.pictures import Pictures
from gan_influence.tool.planting import planted, precision_and_recall, without_class
from gan_influence.tool.scoring import advice

GAME = """
import torch
import gan_influence as gi

ROWS, LATENTS = gi.datasets.normal_1d(60, seed=0), gi.datasets.normal_1d(60, mean=0.0, seed=1)


def metric(seed):
    reference = gi.datasets.normal_1d(40, seed=seed)
    return gi.metrics.AverageLogLikelihood(reference, gi.datasets.normal_1d(50, mean=0.0, seed=seed + 1))


def build():
    return {
        "game": gi.Game(*gi.models.lqgan(seed=0)),
        "data": ROWS,
        "schedule": gi.FullBatch(LATENTS),
        "steps": 30,
        "optimizer": gi.SGD(0.05),
        "metric": metric(2),
        CHANGED
    }
"""
MORE = """"held_out": [metric(10), metric(20), metric(30)],
        "labels": ["odd" if row % 2 else "even" for row in range(60)],
        "paths": [f"file-{row}.txt" for row in range(60)],"""


@pytest.fixture
def game(tmp_path):
    """A file for ``--game``, with lines of its own in what it returns."""

    def write(changed="", text=GAME):
        path = tmp_path / f"game{len(list(tmp_path.glob('game*')))}.py"
        path.write_text(text.replace("CHANGED", changed))
        return str(path)

    return write


def folder_of(path, n=52, size=28, mode="L", start=0):
    path.mkdir(exist_ok=True)
    rng = np.random.default_rng(start)
    for k in range(start, start + n):
        shape = (size, size) if mode == "L" else (size, size, 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path / f"{k:03d}.png")
    return path


def cleanse(*arguments, out):
    return main(["cleanse", *map(str, arguments), "--out", str(out), "--quiet"])


def table(out):
    with (out / "scores.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def problem(path):
    """What a file builds, without the program."""
    names = {}
    exec(Path(path).read_text(), names)
    built = names["build"]()
    return built, gi.train(built["game"], built["data"], built["schedule"], built["steps"], built["optimizer"])


# ------------------------------------------------------------------------------------------------- what it writes


def test_a_game_of_ones_own_is_scored_checked_and_cleansed(tmp_path, game, capsys):
    path, out = game(MORE), tmp_path / "out"
    assert cleanse("--game", path, "--count", 5, "--retrain", out=out) == 0
    built, trace = problem(path)
    scores = gi.itd(trace, built["metric"])
    lines = table(out)
    assert list(lines[0]) == ["row", "path", "label", "score", "rank", "harmful"]
    assert [int(line["row"]) for line in lines] == list(range(60))
    assert [float(line["score"]) for line in lines] == pytest.approx(scores.tolist(), rel=1e-8)
    assert [line["harmful"] for line in lines] == [str(int(score > 0)) for score in scores.tolist()]
    order = sorted(range(60), key=lambda row: -float(scores[row]))  # larger is better: the highest first
    assert sorted(range(60), key=lambda row: int(lines[row]["rank"])) == order
    assert lines[7]["path"] == "file-7.txt"
    assert lines[7]["label"] == "odd"
    assert (out / "removed.txt").read_text().split() == [f"file-{row}.txt" for row in order[:5]]
    assert "trusted" in capsys.readouterr().out

    expected = gi.retrain(trace, order[:5]).module("generator").state_dict()
    saved = torch.load(out / "generator.pt", weights_only=True)
    assert all(torch.equal(saved[name], value) for name, value in expected.items())


def test_aid_may_score_instead(tmp_path, game):
    path, out = game(), tmp_path / "out"
    assert cleanse("--game", path, "--estimator", "aid", "--terms", 20, "--untrusted", out=out) == 0
    built, trace = problem(path)
    expected = gi.aid(trace, built["metric"], terms=20)
    assert [float(line["score"]) for line in table(out)] == pytest.approx(expected.tolist(), rel=1e-8)


def test_the_last_steps_alone_may_be_traced_back(tmp_path, game):
    path = game('"last": 10,')
    assert cleanse("--game", path, "--untrusted", out=tmp_path / "ten") == 0
    assert cleanse("--game", path, "--last", "all", out=tmp_path / "all") == 0
    assert cleanse("--game", path, "--last", 12, "--untrusted", out=tmp_path / "twelve") == 0
    built, trace = problem(game())
    for name, last in (("ten", 10), ("all", None), ("twelve", 12)):
        expected = gi.itd(trace, built["metric"], last=last)
        assert [float(line["score"]) for line in table(tmp_path / name)] == pytest.approx(expected.tolist(), rel=1e-8)


def test_the_summary_is_one_file_that_tells_before_and_after(tmp_path, game):
    path, out = game(MORE), tmp_path / "out"
    assert cleanse("--game", path, "--count", 5, "--retrain", out=out) == 0
    page = (out / "summary.html").read_text()
    assert not re.search(r"(?:src|href)=\"(?!data:)|@import|url\(", page)
    built, trace = problem(path)
    removed = [int(line.split("-")[1].split(".")[0]) for line in (out / "removed.txt").read_text().split()]
    cleansed = gi.retrain(trace, removed)
    before = np.mean([float(metric(trace)) for metric in built["held_out"]])
    after = np.mean([float(metric(cleansed)) for metric in built["held_out"]])
    assert f"{before:.4g}" in page
    assert f"{after:.4g}" in page
    assert f"{after - before:+.3g}" in page
    assert "random rows" in page
    assert "<td>even<" in page


def test_scores_are_the_same_bytes_each_time(tmp_path, game):
    path = game()
    for name in ("one", "two"):
        assert cleanse("--game", path, out=tmp_path / name) == 0
    assert (tmp_path / "one/scores.csv").read_bytes() == (tmp_path / "two/scores.csv").read_bytes()


def test_an_estimate_says_what_it_takes_and_writes_nothing(tmp_path, game, capsys):
    out = tmp_path / "out"
    for estimator in ("itd", "aid"):
        arguments = ("--game", game(), "--estimate", "--retrain", "--estimator", estimator)
        assert cleanse(*arguments, "--terms", 5, out=out) == 0
        said = capsys.readouterr().out
        assert re.search(r"^about \d+ s on this machine", said)
        assert re.search(r"about \d+ MiB of memory", said)
    assert not out.exists()


def test_a_folder_of_images_gets_contact_sheets(tmp_path):
    for k, label in enumerate(("cats", "dogs")):
        (tmp_path / "pets").mkdir(exist_ok=True)
        folder_of(tmp_path / "pets" / label, n=30, start=100 * k, mode="RGB")
    out = tmp_path / "out"
    small = ("--steps", 3, "--channels", 2, "--rows", 4, "--untrusted", "--rate", 0.2)
    assert cleanse(tmp_path / "pets", *small, out=out) == 0
    for name in ("harmful.png", "helpful.png", "generated.png"):
        with Image.open(out / name) as sheet:
            assert sheet.width > 900
    lines = table(out)
    assert len(lines) == 60 - 2 * 9  # 30 % held out
    assert {line["label"] for line in lines} == {"cats", "dogs"}
    assert all(line["path"].startswith(line["label"] + "/") for line in lines)
    assert (out / "summary.html").read_text().count("data:image/png") == 3


def test_mixed_sizes_and_files_that_are_no_images_can_be_dealt_with(tmp_path, capsys):
    folder = folder_of(folder_of(tmp_path / "mixed", n=26, size=40), n=26, size=28, mode="RGB", start=50)
    (folder / "broken.jpg").write_bytes(b"not an image")
    small = ("--steps", 2, "--channels", 2, "--rows", 4, "--untrusted")
    arguments = (folder, *small, "--resize", 28, "--skip-unreadable", "--held-out", 0.2)
    assert cleanse(*arguments, out=tmp_path / "out") == 0
    assert len(table(tmp_path / "out")) == 52 - 2 * 5
    assert "broken.jpg" in (tmp_path / "out" / "summary.html").read_text()


def test_the_template_runs_as_it_is(tmp_path, capsys):
    path = tmp_path / "mine.py"
    assert main(["template", str(path)]) == 0
    assert cleanse("--game", path, "--steps", 4, "--rows", 4, "--untrusted", out=tmp_path / "out") == 0
    assert len(table(tmp_path / "out")) == 1197
    assert main(["template", str(path)]) == 2
    assert "is there already" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- trust


def spoil(monkeypatch):
    """Scores of the wrong sign, which retraining contradicts."""
    monkeypatch.setattr("gan_influence.tool.scoring.itd", lambda *args, **options: -gi.itd(*args, **options))


def test_removals_are_not_recommended_where_scores_are_not_to_be_trusted(tmp_path, game, monkeypatch, capsys):
    spoil(monkeypatch)
    path, out = game(), tmp_path / "out"
    assert cleanse("--game", path, "--retrain", out=out) == 3
    said = capsys.readouterr().out
    assert "not to be trusted: sign" in said
    assert "30 of 30 steps were traced back: try --last 7, then a lower learning rate besides" in said
    assert "not to be trusted" in (out / "summary.html").read_text()
    assert {line["harmful"] for line in table(out)} == {""}
    left = {file.name for file in out.iterdir()}
    assert left == {"checkpoints", "scores.csv", "summary.html"}

    assert cleanse("--game", path, "--untrusted", out=out) == 0
    assert (out / "removed.txt").exists()
    assert cleanse("--game", path, out=out) == 3
    assert not (out / "removed.txt").exists()


def test_fewer_steps_are_advised_before_smaller_ones():
    settings = Settings(data="digits", quiet=True)
    problem = problem_of_images(settings)
    assert (
        advice(problem, settings, 190) == "190 of 1500 steps were traced back: try --last 47, then --lr 0.0002 besides"
    )
    assert advice(problem, settings, 5) == "5 steps were traced back: try --lr 0.0002"


# ------------------------------------------------------------------------------------------------- going on


class Interrupted:
    """Ctrl-C when the n-th checkpoint is about to be kept."""

    def __init__(self, monkeypatch, n):
        self.kept, self.n, keep = [], n, History.keep

        def interrupted(history, t, state):
            if len(self.kept) == self.n:
                raise KeyboardInterrupt
            self.kept.append(t)
            keep(history, t, state)

        monkeypatch.setattr(History, "keep", interrupted)


def test_an_interrupted_run_goes_on_and_ends_at_the_same_scores(tmp_path, game, monkeypatch, capsys):
    path = game()
    assert cleanse("--game", path, out=tmp_path / "whole") == 0
    with monkeypatch.context() as patched:
        Interrupted(patched, 20)
        assert cleanse("--game", path, out=tmp_path / "parts") == 130
    assert "goes on from the last checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "parts" / "scores.csv").exists()
    with monkeypatch.context() as patched:
        after = Interrupted(patched, 10**6)
        assert cleanse("--game", path, out=tmp_path / "parts") == 0
        assert after.kept[0] == 21  # every = 5: step 20 was kept
    assert (tmp_path / "whole/scores.csv").read_bytes() == (tmp_path / "parts/scores.csv").read_bytes()


def test_a_run_goes_on_with_as_many_threads_as_it_began_with(tmp_path):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        same_threads(opened(tmp_path / "out"))
        torch.set_num_threads(threads)
        same_threads(opened(tmp_path / "out"))
        assert torch.get_num_threads() == threads + 1
        (tmp_path / "out" / "checkpoints" / "threads").write_text("")  # killed while it was written
        same_threads(opened(tmp_path / "out"))
        assert (tmp_path / "out" / "checkpoints" / "threads").read_text() == f"{threads + 1}\n"
    finally:
        torch.set_num_threads(threads)


def test_what_is_done_is_not_done_again(tmp_path, game, monkeypatch):
    path, out = game(), tmp_path / "out"
    assert cleanse("--game", path, out=out) == 0
    for name in ("itd", "validate"):
        monkeypatch.setattr(f"gan_influence.tool.scoring.{name}", None)
    assert cleanse("--game", path, "--count", 2, out=out) == 0
    assert len((out / "removed.txt").read_text().split()) == 2


def test_a_folder_with_another_runs_files_is_refused_with_what_differs(tmp_path, game, capsys):
    out = tmp_path / "out"
    assert cleanse("--game", game(), out=out) == 0
    assert cleanse("--game", game(), "--steps", 31, out=out) == 2
    assert "steps was 0 to 30, is 0 to 31" in capsys.readouterr().err
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("")
    assert cleanse("--game", game(), out=other) == 2
    assert "holds other files, such as thesis.tex" in capsys.readouterr().err
    assert cleanse("--game", game(), out=other / "thesis.tex") == 2
    assert "is a file" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changed", "arguments", "message"),
    [
        ("1 / 0", [], r"fails: ZeroDivisionError: division by zero \(line \d+\): `gan-influence template`"),
        ('"shedule": 1', [], "has shedule besides"),
        ('"game": 3', [], "game of .* must be a gi.Game, got int"),
        ('"labels": ["a"]', [], "there are 60 rows, but 1 labels: one a row"),
        ('"data": ROWS[:49]', [], "has 49 rows, but at least 50 are needed"),
        ('"metric": lambda players: players.generate(LATENTS).mean()', [], "does not say whether larger is better"),
        ('"optimizer": gi.SGD(1e200)', [], "diverged at step"),
        ("", ["--rate", "1"], r"--rate must be a share of the rows in \(0, 1\), got 1.0"),
        ("", ["--rate", "0"], r"--rate must be a share of the rows in \(0, 1\), got 0.0"),
        ("", ["--rate", "nan"], r"--rate must be a share of the rows in \(0, 1\), got nan"),
        ("", ["--count", "60"], "--count must be from 1 to 59, of 60 training rows, got 60"),
        ("", ["--count", "0"], "--count must be from 1 to 59"),
        ("", ["--rows", "3"], "rows must be a number from 4"),
        ("", ["--device", "gpu7"], "--device must be auto, cpu or cuda, got gpu7"),
    ],
)
def test_what_is_wrong_with_a_game_is_said(tmp_path, game, capsys, changed, arguments, message):
    text = GAME.replace('"game": gi.Game(*gi.models.lqgan(seed=0)),', "") if '"game"' in changed else GAME
    if changed == "1 / 0":
        text = text.replace("    return {", "    1 / 0\n    return {").replace("CHANGED", "")
    assert cleanse("--game", game(changed, text), *arguments, out=tmp_path / "out") == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_of_that_name", "fails: ModuleNotFoundError"),
        ("def build(:", "fails: SyntaxError"),
        ("", r"has no function build\(\)"),
        ("def build(): return 3", r"must return a dict with game, data, .* got int: `gan-influence template`"),
        ("def build(): return {'data': 3}", "lacks game, schedule, steps"),
    ],
)
def test_a_file_that_builds_nothing_of_use_is_refused(tmp_path, game, capsys, text, message):
    assert cleanse("--game", game(text=text), out=tmp_path / "out") == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_there_is_named(tmp_path, capsys):
    assert cleanse("--game", tmp_path / "none.py", out=tmp_path / "out") == 2
    assert "none.py is not there" in capsys.readouterr().err


def test_scores_that_are_not_numbers_are_refused(tmp_path, game, capsys, monkeypatch):
    def nan(*args, **options):
        return gi.itd(*args, **options) * math.nan

    monkeypatch.setattr("gan_influence.tool.scoring.itd", nan)
    assert cleanse("--game", game(), out=tmp_path / "out") == 2
    assert "NaN or infinity" in capsys.readouterr().err


def test_what_is_wrong_with_a_folder_is_listed(tmp_path, capsys):
    def refused(*arguments):
        assert cleanse(*arguments, out=tmp_path / "out") == 2
        return capsys.readouterr().err

    assert "is no folder" in refused(tmp_path / "none")
    few = folder_of(tmp_path / "few", n=49)
    assert "holds 49 images that can be read, but at least 50" in refused(few)
    mixed = folder_of(folder_of(tmp_path / "mixed", n=30), n=30, size=20, start=70)
    said = refused(mixed)
    assert "28 x 28: 30, such as 000.png" in said
    assert "20 x 20: 30, such as 070.png" in said
    assert "--resize" in said
    assert "--resize must be 28, 32 or 64 pixels, got 30" in refused(mixed, "--resize", 30)
    for name in ("a.jpg", "b.png"):
        (mixed / name).write_bytes(b"no image")
    said = refused(mixed, "--resize", 28)
    assert "2 of 62 files cannot be used" in said
    assert "a.jpg" in said
    assert "b.png" in said
    assert "--skip-unreadable" in said
    odd = folder_of(tmp_path / "odd", n=50, size=30)
    assert "30 x 30 pixels, but the built-in GAN makes squares of 28, 32 or 64" in refused(odd)
    good = folder_of(tmp_path / "good", n=50)
    assert "these images have no labels" in refused(good, "--demo", "class")
    assert "leaves 2 of 50 images" in refused(good, "--held-out", 0.97)


def test_one_class_is_too_few_to_plant_another(tmp_path, capsys):
    folder_of(tmp_path / "one", n=0)
    folder_of(tmp_path / "one" / "cats", n=50)
    assert cleanse(tmp_path / "one", "--demo", "class", out=tmp_path / "out") == 2
    assert "all images have the label 'cats'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["cleanse"],
        ["cleanse", "folder", "--data", "digits"],
        ["cleanse", "--game", "file.py", "--demo", "class"],
        ["cleanse", "--data", "digits", "--rate", "0.1", "--count", "3"],
        ["cleanse", "--data", "digits", "--steps", "0"],
        ["cleanse", "--data", "digits", "--lr", "-1"],
        ["demo", "nonsense"],
        [],
    ],
)
def test_arguments_that_make_no_sense_are_of_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_without_pillow_the_extra_is_named(tmp_path, monkeypatch, capsys):
    folder = folder_of(tmp_path / "good", n=50)
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert cleanse(folder, out=tmp_path / "out") == 2
    assert 'pip install "gan-influence[images]"' in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- the demo


def labelled(n=100):
    images = torch.arange(n).float().reshape(n, 1, 1, 1).expand(n, 1, 2, 2) / n
    return Pictures(images, tuple("ab"[row % 2] for row in range(n)), None)


def test_inverted_images_are_one_in_twenty():
    spoilt, mask = planted(labelled(), "inverted", None, seed=0)
    assert int(mask.sum()) == 5
    assert torch.equal(spoilt.images[mask], -labelled().images[mask])
    assert torch.equal(spoilt.images[~mask], labelled().images[~mask])


def test_duplicates_are_copies_of_one_image():
    spoilt, mask = planted(labelled(), "duplicates", None, seed=0)
    assert int(mask.sum()) == 5
    assert len(spoilt.images[mask].unique(dim=0)) == 1
    assert torch.equal(spoilt.images[~mask], labelled().images[~mask])


def test_images_of_another_class_bring_their_label():
    clean, other = without_class(labelled())
    spoilt, mask = planted(clean, "class", other, seed=0)
    (label,) = set(other.labels)
    assert label not in clean.labels
    assert [own for own, is_planted in zip(spoilt.labels, mask.tolist(), strict=True) if is_planted] == [label] * 2
    assert all(any(torch.equal(image, own) for own in other.images) for image in spoilt.images[mask])


def test_the_class_that_looks_least_like_the_others_is_planted():
    level = torch.tensor([0.1, 0.9, 0.2]).repeat(20)
    pictures = Pictures(level.reshape(60, 1, 1, 1).expand(60, 1, 2, 2), tuple("abc" * 20), None)
    clean, other = without_class(pictures)
    assert set(clean.labels) == {"a", "c"}
    assert set(other.labels) == {"b"}


def test_precision_and_recall_are_shares_of_what_is_removed_and_of_what_was_planted():
    mask = torch.tensor([True, False, True, True])
    assert precision_and_recall([0, 1], mask) == (0.5, 1 / 3)


def test_the_demo_compares_four_methods(tmp_path, capsys):
    small = ["--steps", "6", "--channels", "2", "--rows", "4", "--untrusted", "--terms", "2", "--retrain", "--quiet"]
    assert main(["demo", "inverted", "--players", "dcgan", *small, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    for method in ("ITD", "AID", "isolation forest", "random"):
        assert re.search(rf"{method} +\d\.\d\d +\d\.\d\d", said)
    page = (tmp_path / "out" / "summary.html").read_text()
    assert "Without all planted rows the held-out metric is" in page
    assert page.count("data:image/png") == 4  # with those generated after cleansing


def test_inverted_digits_do_harm_are_found_and_the_metric_recovers(tmp_path, capsys):
    small = ["--steps", "400", "--terms", "20", "--rows", "4", "--untrusted", "--quiet"]
    assert main(["demo", "inverted", *small, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    precision = {name: float(re.search(rf"{name} +(\d\.\d\d)", said)[1]) for name in ("ITD", "random")}
    assert precision["ITD"] > 0.8
    assert precision["random"] < 0.2
    assert "they do harm" in said
    assert int(re.search(r"ITD .* (-?\d+)%", said)[1]) > 80


def test_harm_is_to_be_worse_than_clean_and_than_without_random_rows():
    def shown(before, clean, random, larger_is_better=False):
        found = (Found("ITD", 0.5, 0.25, 2.5), Found("random", 0.0, 0.0, random))
        return Demonstration(8, before, clean, found, larger_is_better)

    harmful = shown(before=3.0, clean=2.0, random=2.9)
    assert harmful.does_harm
    assert harmful.recovered(2.5) == 0.5
    assert "50%" in str(harmful)
    for harmless in (shown(3.0, 3.5, 3.6), shown(3.0, 2.0, 1.9), shown(3.0, 2.0, 2.9, larger_is_better=True)):
        assert not harmless.does_harm
        assert "%" not in str(harmless)
        assert "do no harm" in str(harmless)


# ------------------------------------------------------------------------------------------------------------ parts


def test_a_quadratic_discriminator_is_the_formula():
    rng = np.random.default_rng(0)
    images, matrix, vector = rng.standard_normal((5, 1, 2, 2)), rng.standard_normal((4, 4)), rng.standard_normal(4)
    player = Quadratic(4).double()
    player.load_state_dict(
        {
            "quadratic.weight": torch.from_numpy(matrix),
            "linear.weight": torch.from_numpy(vector[None]),
            "linear.bias": torch.tensor([0.5], dtype=torch.float64),
        }
    )
    flat = images.reshape(5, 4)
    expected = [x @ matrix @ x / 2 + vector @ x + 0.5 for x in flat]
    np.testing.assert_allclose(player(torch.from_numpy(images)).detach(), expected)


def test_principal_components_are_those_of_numpy():
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((30, 1, 3, 3)))
    components = PrincipalComponents(images, 4)
    flat = images.flatten(1).numpy()
    values, vectors = np.linalg.eigh(np.cov(flat.T))
    expected = (flat - flat.mean(0)) @ vectors[:, ::-1][:, :4]
    np.testing.assert_allclose(np.abs(components(images).numpy()), np.abs(expected), atol=1e-12)
    assert components.explained == pytest.approx(values[::-1][:4].sum() / values.sum())


def test_the_console_script_is_the_program():
    script = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
    module, name = script["gan-influence"].split(":")
    assert getattr(importlib.import_module(module), name) is main


def test_it_is_a_module_that_runs(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "gan_influence", "template", str(tmp_path / "game.py")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert done.returncode == 0, done.stderr
    assert "runs as it is" in done.stdout
