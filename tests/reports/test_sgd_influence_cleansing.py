"""The report on SGD-influence's section 7.2: methods by plain loops, retraining by gi.retrain, and what is said."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.results import cell_of, result_of
from torch.func import functional_call
from torch.nn.functional import cross_entropy, pad

import gan_influence as gi
from gan_influence.metrics.metric import measure
from gan_influence.solvers import Momentum
from reports.experiments import EXPERIMENTS
from reports.experiments import sgd_influence_cleansing as experiment
from reports.experiments.sgd_influence_cleansing import (
    ALL,
    AUTOENCODER,
    BEFORE,
    DATA,
    ERROR,
    FOREST,
    KL,
    LAST,
    LAST_EPOCH,
    LOSS,
    METHODS,
    OPPOSITE,
    OURS,
    RANDOM,
    SAME_CLASSES,
    TWICE,
    table,
)
from reports.figures import write_figure
from reports.summary import Summary

CLEANSING = EXPERIMENTS["sgd-influence-cleansing"]
SEED, BATCH, EPOCH = 0, 8, 3
TINY = {
    **experiment.SMOKE,
    "rows": {"digits": 24},
    "validation_rows": 40,
    "test_rows": 30,
    "batch": BATCH,
    "counts": [2, 6],
    "descent": {"batch": 12, "steps": 5, "rate": 0.005, "momentum": 0.9},
    "autoencoder": {"batch": 16, "epochs": 2, "lr": 1e-3},
    "forest_passes": 2,
    "shown": 6,
    "pictured": 4,
}


@pytest.fixture(scope="module")
def run():
    return experiment.Run.of(TINY, SEED, "digits", "cpu")


@pytest.fixture(scope="module")
def harm(run):
    return experiment.harm(TINY, run)


@pytest.fixture(scope="module")
def record():
    return experiment.run_unit(TINY, SEED, "digits", "cpu")


class Reference:
    """The run by plain loops: crops of padded images, and derivatives by autograd."""

    def __init__(self, run):
        self.run, self.size = run, run.trace.size
        self.model = gi.models.mnist_cnn(seed=run.streams.model)
        self.shapes = {name: p.shape for name, p in self.model.named_parameters()}

    def losses(self, theta, images, labels):
        parts = theta.split([shape.numel() for shape in self.shapes.values()])
        named = {name: part.view(shape) for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)}
        return cross_entropy(functional_call(self.model, named, (images,)), labels, reduction="none")

    def batch(self, t, rows=None):
        """Step t's images, cropped, or others beside its draws; labels."""
        batch = self.run.trace.batch(t)
        indices = batch.indices if rows is None else rows
        large = pad(self.run.training.images[indices], (2, 2, 2, 2), value=-1.0)
        corners = (batch.noise * 5).long().tolist()
        crops = [image[:, a : a + 28, b : b + 28] for image, (a, b) in zip(large, corners, strict=True)]
        return torch.stack(crops), self.run.training.labels[indices]

    def query(self):
        theta = self.run.trace.theta().requires_grad_()
        return torch.autograd.grad(self.losses(theta, *self.run.validation).mean(), theta)[0]

    def slopes(self, theta, batch, u):
        """``<grad l_i, u>`` of every row, and ``H u``."""
        theta, ones = theta.clone().requires_grad_(), torch.ones(len(batch[1]), requires_grad=True)
        cost = ones @ self.losses(theta, *batch) / len(ones)
        (gradient,) = torch.autograd.grad(cost, theta, create_graph=True)
        of_rows, product = torch.autograd.grad(gradient @ u, (ones, theta))
        return len(ones) * of_rows, product

    def sgd_influence(self, share):
        scores, u = torch.zeros(self.size), self.query()
        for t in reversed(range(self.run.trace.steps)):
            of_rows, product = self.slopes(self.run.trace.theta(t), self.batch(t), u)
            scores[self.run.trace.batch(t).indices] += 0.05 / BATCH * of_rows
            u = u - 0.05 * share * product
        return scores

    def koh_and_liang(self):
        """The paper's descent on batches of 12, then each block of 8 rows beside the draws of a step from the end."""
        theta, u, steps = self.run.trace.theta(), self.query(), self.run.trace.steps
        x, speed = torch.zeros_like(u), torch.zeros_like(u)
        for t in range(steps, steps + 5):
            assert len(self.run.trace.batch(t).indices) == 12
            speed = 0.9 * speed + self.slopes(theta, self.batch(t), x)[1] + 0.1 * x - u
            x = x - 0.005 * speed
        blocks = torch.arange(self.size).split(BATCH)
        terms = [self.slopes(theta, self.batch(steps - 1 - k, rows), x)[0] for k, rows in enumerate(blocks)]
        return torch.cat(terms) / self.size


def close(found, expected, within=1e-4):
    return float((found - expected).norm()) <= within * float(expected.norm())


# --- methods


def test_sgd_influence_is_itd_of_the_validation_loss_through_all_epochs_and_through_the_last(run, harm):
    metric = gi.metrics.AverageLoss(*run.validation)
    assert torch.equal(harm[OURS], -gi.itd(run.trace, metric).double())
    assert torch.equal(harm[LAST_EPOCH], -gi.itd(run.trace, metric, last=EPOCH).double())
    assert close(harm[OURS], -Reference(run).sgd_influence(share=1.0))
    assert not close(harm[OURS], harm[LAST_EPOCH], 0.01)


def test_the_faulty_sweep_divides_the_mean_hessian_by_the_batch_size_once_more(run, harm):
    assert close(harm[TWICE], -Reference(run).sgd_influence(share=1 / BATCH))
    assert not close(harm[TWICE], harm[OURS], 1e-3)


def test_kl_is_aid_by_the_papers_descent_and_the_faulty_one_its_opposite(run, harm):
    solver = Momentum(steps=5, rate=0.005, momentum=0.9, start="zero", minibatches=True)
    with pytest.warns(RuntimeWarning, match="residual"):
        direct = gi.aid(run.trace, run.metric, damping=0.1, solver=solver)
    assert torch.equal(harm[KL], -direct.double())
    assert close(harm[KL], -Reference(run).koh_and_liang())
    assert torch.equal(harm[OPPOSITE], -harm[KL])


def test_the_autoencoders_scores_are_those_of_a_plain_training(run, harm):
    images, _ = run.validation
    model = gi.models.autoencoder(seed=run.streams.autoencoder)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = gi.Minibatches(40, 16, seed=run.streams.autoencoder, noise=lambda rng, n: rng.random((n, 2)))
    for t in range(6):
        indices, _, noise = batches(t)
        seen = experiment.augmented(images[indices], noise, 2)
        adam.zero_grad()
        (model(seen) - seen).square().mean().backward()
        adam.step()
    rows = run.training.images
    assert close(harm[AUTOENCODER], (model(rows) - rows).square().sum((1, 2, 3)).detach().double(), 1e-3)


def test_the_forest_is_fitted_to_the_features_of_augmented_validation_rows(run, harm):
    from sklearn.ensemble import IsolationForest

    weights = run.trace.parameters()["model"]
    kernels = [(weights[f"{k}.weight"], weights[f"{k}.bias"]) for k in (0, 3)]

    def features(images):
        for kernel in kernels:
            images = torch.nn.functional.max_pool2d(torch.nn.functional.conv2d(images, *kernel).relu(), 2)
        return images.flatten(1).detach().numpy()

    rng = np.random.default_rng(run.streams.forest)
    seen = [experiment.augmented(run.validation.images, torch.from_numpy(rng.random((40, 2))), 2) for _ in range(2)]
    forest = IsolationForest(random_state=run.streams.forest).fit(np.concatenate([features(part) for part in seen]))
    assert close(harm[FOREST], -torch.from_numpy(forest.score_samples(features(run.training.images))), 1e-3)


def test_images_are_crops_with_black_around_and_flipped_by_the_third_number():
    images = torch.rand(3, 1, 28, 28) * 2 - 1
    noise = torch.tensor([[0.0, 0.5, 0.2], [0.99, 0.3, 0.7], [0.5, 0.5, 0.4]], dtype=torch.float64)
    large = pad(images, (2, 2, 2, 2), value=-1.0)
    expected = torch.stack([large[0, :, 0:28, 2:30], large[1, :, 4:32, 1:29], large[2, :, 2:30, 2:30]])
    assert torch.allclose(experiment.augmented(images, noise[:, :2], 2), expected, atol=1e-6)
    expected[1] = expected[1].flip(2)
    assert torch.allclose(experiment.augmented(images, noise, 2), expected, atol=1e-6)


def test_the_run_sees_other_shifts_in_each_step_and_larger_batches_past_its_end(run):
    first, second = run.trace.batch(0), run.trace.batch(EPOCH)
    assert first.noise.shape == (BATCH, 2)
    assert not torch.equal(first.noise, second.noise)
    assert torch.equal(run.trace.batch(0).noise, first.noise)
    assert sorted(torch.cat([run.trace.batch(t).indices for t in range(EPOCH)]).tolist()) == list(range(24))
    past = torch.cat([run.trace.batch(run.trace.steps + k).indices for k in range(2)])
    assert sorted(past.tolist()) == list(range(24))


# --- which rows leave, and what that does


def test_the_control_removes_as_many_of_each_class(run, harm):
    removed = experiment.removals(TINY, run, harm)
    labels = run.training.labels
    for ours, alike, count in zip(removed[OURS], removed[SAME_CLASSES], TINY["counts"], strict=True):
        assert len(ours) == len(set(alike.tolist())) == count
        assert labels[ours].bincount(minlength=10).tolist() == labels[alike].bincount(minlength=10).tolist()
    assert set(removed[SAME_CLASSES][1].tolist()) != set(removed[OURS][1].tolist())
    assert set(removed) == set(METHODS)


@pytest.mark.parametrize(("strategy", "last"), [(ALL, None), (LAST, EPOCH)])
def test_changes_are_those_of_retraining_without_the_rows(run, harm, record, strategy, last):
    before = measure(run.judge, run.trace)
    assert record["before"] == pytest.approx(before.tolist())
    for name in (OURS, KL, RANDOM):
        for k, count in enumerate(TINY["counts"]):
            taken = harm[name].argsort(descending=True, stable=True)[:count]
            again = gi.retrain(run.trace, removed=taken.tolist(), last=last)
            error, loss = (measure(run.judge, again) - before).tolist()
            assert record["changes"][strategy][name][0][k] == pytest.approx(error, abs=1e-6)
            assert record["changes"][strategy][name][1][k] == pytest.approx(loss, rel=1e-3, abs=1e-5)


def test_the_judge_counts_misclassified_images_and_averages_the_cross_entropy(run):
    logits = run.trace.module("model")(run.judge.images).detach()
    wrong = sum(int(logits[k].argmax() != run.judge.labels[k]) for k in range(30))
    error, loss = measure(run.judge, run.trace).tolist()
    assert error == pytest.approx(100 * wrong / 30)
    assert loss == pytest.approx(float(cross_entropy(logits, run.judge.labels)), rel=1e-5)


def test_parts_are_disjoint(run):
    parts = experiment.splits(TINY, SEED, "digits")
    assert [len(part.labels) for part in parts] == [24, 40, 30]
    images = torch.cat([part.images for part in parts]).flatten(1)
    assert len(images.unique(dim=0)) == 94
    assert images.shape[1] == 28 * 28
    assert (images.min(), images.max()) == (-1, 1)


def test_a_run_whose_descent_diverges_has_no_cells_of_kl():
    settings = {**TINY, "descent": {**TINY["descent"], "steps": 50, "rate": 1e4}, "strategies": [LAST], "counts": [6]}
    diverged = experiment.run_unit(settings, SEED, "digits", "cpu")
    values = experiment.combine(settings, {"digits": diverged})[table(ERROR, "digits", LAST)]
    assert values[KL] == values[OPPOSITE] == {"6": None}
    assert values[OURS]["6"] is not None


@pytest.mark.filterwarnings("ignore:models of this game are computed one after another")
def test_batch_norm_on_images_of_colour_is_cleansed_as_well(monkeypatch):
    def read():
        random = torch.Generator().manual_seed(0)
        images = torch.rand(30, 3, 32, 32, generator=random) * 2 - 1
        whole = gi.datasets.LabelledImages(images, torch.arange(30) % 10)
        return whole, whole

    monkeypatch.setitem(DATA, "cifar10", DATA["cifar10"]._replace(read=read))
    settings = {
        **TINY,
        **{"data": ["cifar10"], "rows": {"cifar10": 12}, "validation_rows": 8, "test_rows": 5, "batch": 6, "epochs": 1},
        **{"counts": [3], "memory": "checkpoint", "descent": {**TINY["descent"], "steps": 2}, "forest_passes": 1},
        "autoencoder": {"batch": 4, "epochs": 1, "lr": 1e-3},
    }
    record = experiment.run_unit(settings, SEED, "cifar10", "cpu")
    for strategy in (LAST, ALL):
        assert set(record["changes"][strategy]) == set(METHODS)
        assert torch.tensor(record["changes"][strategy][OURS]).isfinite().all()
    assert record["changes"][ALL][OURS] == record["changes"][LAST][OURS]  # of the only epoch
    assert record["changes"][ALL][OURS][1] != [0.0]


# --- what is shown and said


def runs_of(changes, seeds=6):
    """Made-up runs with these changes of misclassification, a little apart, at all numbers of rows."""
    runs = []
    for seed in range(seeds):
        own = {name: dict.fromkeys(("10", "50", "150"), changes[name] + 0.01 * (-1) ** seed) for name in METHODS}
        tables = {table(measure_, "mnist", strategy): own for measure_ in (ERROR, LOSS) for strategy in (LAST, ALL)}
        before = {"MNIST": {"misclassified, %": 4.0, "cross-entropy": 0.15}}
        runs.append({"seed": seed, "values": {**tables, BEFORE: before}})
    return runs


PAPERS = {
    **dict.fromkeys(METHODS, 0.0),
    **{OURS: -0.4, LAST_EPOCH: -0.4, KL: 0.1, TWICE: -0.2, OPPOSITE: 0.6},
}


def sentences(changes, seeds=6):
    return experiment.findings(Summary(CLEANSING, result_of(CLEANSING, "standard", runs_of(changes, seeds))))


def test_the_papers_claims_are_found_where_they_hold():
    text = " ".join(sentences(PAPERS))
    assert "before cleansing, mean over seeds: MNIST 4.00 % (cross-entropy 0.150)" in text
    assert text.count("cleanses better than K&L, Autoencoder, Isolation Forest, Random is confirmed: without 50") == 2
    assert text.count("clear of 0 against K&L, Autoencoder, Isolation Forest, Random.") == 2
    assert text.count("the last epoch suffices is not contradicted; without 50 rows the error is +0.00") == 2
    assert text.count("SGD-influence at 10, 50, 150, that of the last epoch at 10, 50, 150") == 2
    assert text.count("baselines: none (the paper: none). Without 50 rows it falls in 6 of 6 runs") == 2
    assert text.count("SGD-influence against SGD-influence, Hessians divided twice: significantly ahead at 10, 50") == 2
    assert text.count("at 50 by +0.20") == 2
    assert text.count("K&L of the paper's sign against K&L, opposite sign: significantly ahead at 10, 50, 150") == 2


def test_the_papers_claims_are_denied_where_they_fail():
    text = " ".join(sentences({**PAPERS, LAST_EPOCH: 0.3, KL: -0.5, OURS: -0.1}))
    assert "Random is not confirmed against K&L: without 50 rows the bootstrap interval of its lead is clear" in text
    assert "the last epoch suffices is not confirmed: all epochs do better; without 50 rows the error is +0.40" in text
    assert "that of the last epoch at none" in text
    assert "baselines: K&L at 10, 50, 150" in text
    assert "stands: the last epoch alone does better" in " ".join(sentences({**PAPERS, LAST_EPOCH: -0.6}))


def test_one_seed_says_what_it_found_and_claims_nothing():
    text = " ".join(sentences(PAPERS, seeds=1))
    assert "SGD-influence -0.39" in text
    assert "Too few seeds for a change to be significant" in text
    assert "the claim" not in text


def test_the_cells_are_the_records_of_the_unit(record):
    run = {"seed": SEED, "values": experiment.combine(TINY, {"digits": record})}
    tiny = replace(CLEANSING, presets={"tiny": replace(CLEANSING.presets["smoke"], settings=TINY)})
    cells = result_of(tiny, "tiny", [run])["cells"]
    own = {"cells": cells}
    assert {cell["table"] for cell in cells} == {BEFORE} | {
        table(measure_, "digits", strategy) for measure_ in (ERROR, LOSS) for strategy in (LAST, ALL)
    }
    for name in METHODS:
        cell = cell_of(own, table(LOSS, "digits", ALL), name, "6")
        assert cell["measured"] == pytest.approx(record["changes"][ALL][name][1][1])
    assert cell_of(own, BEFORE, "digits", "cross-entropy")["measured"] == pytest.approx(record["before"][1])


def test_the_figures_are_drawn(record, tmp_path):
    run = {"seed": 0, "values": experiment.combine(TINY, {"digits": record}), "pictures": record["pictures"]}
    tiny = replace(CLEANSING, presets={"tiny": replace(CLEANSING.presets["smoke"], settings=TINY)})
    summary = Summary(tiny, result_of(tiny, "tiny", [run]))
    axes_of = []
    for drawing in tiny.figures:
        seen = []
        kept = replace(drawing, draw=lambda figure, own, d=drawing.draw, s=seen: (d(figure, own), s.append(figure)))
        write_figure(kept, summary, tmp_path)
        assert (tmp_path / f"{drawing.name}.png").stat().st_size > 10_000
        axes_of.append(seen[0].axes)
    panels, images = axes_of
    assert [axes.get_title() for axes in panels] == [LAST, LAST, ALL, ALL]
    lines = {line.get_label(): line for line in panels[2].get_lines()}
    assert set(METHODS) < lines.keys()
    assert lines[KL].get_xdata().tolist() == TINY["counts"]
    assert lines[KL].get_ydata() == pytest.approx(record["changes"][ALL][KL][0])
    assert panels[0].get_xlabel() == "number of removed rows"
    assert [axes.get_title() for axes in images] == [f"digits: {name}" for name in experiment.PICTURED]
    assert all(axes.images for axes in images)


def test_files_are_asked_for_where_the_settings_name_their_data():
    assert CLEANSING.files(experiment.SMOKE, range(2)) == []
    assert len(CLEANSING.files(experiment.PUBLISHED, range(2))) == 6
    assert CLEANSING.on_digits(experiment.STANDARD)["data"] == ["digits"]
