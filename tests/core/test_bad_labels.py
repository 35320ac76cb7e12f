"""Labels that are no class and test points of another shape, of a one-player game, are refused with the culprit."""

import pytest
import torch
from support.games import normal
from torch import nn

import gan_influence as gi

N = 12
INPUTS, CLASSES = normal(700, N, 3), torch.arange(N) % 3


def train(labels, loss="cross_entropy", outputs=3, schedule=None):
    game = gi.Game(None, nn.Linear(3, outputs).double(), loss=loss, l2=0.1)
    return gi.train(game, (INPUTS, labels), schedule or gi.FullBatch(), 3, gi.SGD(0.1))


@pytest.mark.parametrize("schedule", [gi.FullBatch(), gi.Minibatches(N, 4, seed=1)], ids=["full", "minibatches"])
def test_a_label_without_an_output_is_named_wherever_its_row_is(schedule):
    for row in range(N):
        labels = CLASSES.index_fill(0, torch.tensor(row), 7)
        with pytest.raises(
            ValueError, match=rf"must be below 3, the model's outputs, got 7 in row {row}: give the model"
        ):
            train(labels, schedule=schedule)
    train(CLASSES, schedule=schedule)


@pytest.mark.parametrize(
    ("loss", "outputs", "labels"),
    [
        ("cross_entropy", 3, torch.ones(N).long()),
        ("binary_cross_entropy", 1, torch.ones(N).long()),
        ("binary_cross_entropy", 1, torch.ones(N).double()),
    ],
)
def test_labels_of_a_single_class_are_refused(loss, outputs, labels):
    with pytest.raises(ValueError, match="all 12 targets are 1, a single class, which leaves a model nothing to tell"):
        train(labels, loss, outputs)
    train(labels.index_fill(0, torch.tensor(5), 0), loss, outputs)


def test_equal_numbers_are_no_single_class():
    train(torch.full((N,), 0.25).double(), "binary_cross_entropy", 1)
    train(torch.ones(N, 1).double(), "squared_error", 1)


SCORED = {
    "itd": gi.itd,
    "aid": lambda *of: gi.aid(*of, solver="cg"),
    "counterfactual": lambda *of: gi.counterfactual(*of, [[1], [2, 3]]),
}
POINTS = {
    "wider": (normal(1, 4, 5), CLASSES[:4], r"inputs \(4, 5\) and targets \(4,\), cannot be computed \(mat1 and mat2"),
    "deeper": (normal(1, 4, 2, 3), CLASSES[:4], r"inputs \(4, 2, 3\) and targets \(4,\), cannot be computed \("),
    "no-class": (normal(1, 4, 3), torch.tensor([0, 1, 2, 5]), r"computed \(Target 5 is out of bounds"),
}


@pytest.mark.filterwarnings("ignore:metric AverageLoss is measured of one model after another")
@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize(("inputs", "labels", "message"), POINTS.values(), ids=POINTS)
@pytest.mark.parametrize("score", SCORED.values(), ids=SCORED)
def test_test_points_that_the_model_does_not_take_are_refused(score, inputs, labels, message, each):
    trace = train(CLASSES)
    with pytest.raises(ValueError, match=message + ".*: each must be of the shape of a training row"):
        score(trace, gi.metrics.AverageLoss(inputs, labels, each=each))
