"""The rankings that look at no game."""

import math
import sys

import pytest
import torch
from sklearn.ensemble import IsolationForest
from support.games import normal, same_bits

from gan_influence.baselines import isolation_forest, random_order

ROWS = normal(0, 60, 2)
ROWS[17], ROWS[42] = torch.tensor([8.0, -9.0]), torch.tensor([-30.0, 30.0])


def test_the_isolation_forest_finds_the_abnormal_rows_first():
    scores = isolation_forest(ROWS)
    assert scores.shape == (60,)
    assert scores.dtype == torch.float64
    assert set(scores.argsort()[:2].tolist()) == {17, 42}


@pytest.mark.parametrize(("options", "seed"), [({}, 0), ({"seed": 5}, 5)], ids=["default", "seed-5"])
def test_the_isolation_forest_is_scikit_learns_with_its_defaults(options, seed):
    expected = IsolationForest(random_state=seed).fit(ROWS.numpy()).score_samples(ROWS.numpy())
    assert same_bits(isolation_forest(ROWS, **options), torch.from_numpy(expected))


def test_rows_of_any_shape_are_flattened():
    images = normal(0, 20, 2, 3)
    assert same_bits(isolation_forest(images), isolation_forest(images.reshape(20, 6)))
    assert isolation_forest(images[:, 0, 0]).shape == (20,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rows_of_few_digits_are_scored_as_the_float32_that_they_equal(dtype):
    rounded = ROWS.to(dtype)
    assert same_bits(isolation_forest(rounded), isolation_forest(rounded.float()))


def test_without_scikit_learn_the_isolation_forest_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(ImportError, match="isolation_forest needs scikit-learn: pip install scikit-learn"):
        isolation_forest(ROWS)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([[1.0]], TypeError, r"rows must be a floating-point tensor, got list"),
        (ROWS[:0], ValueError, r"rows must hold at least one row"),
        (ROWS * math.nan, ValueError, r"rows contains NaN or infinity"),
        (
            ROWS * 1e39,
            ValueError,
            r"rows\[\d+\] holds -?\d.*, but isolation_forest compares in float32, up to 3.4e\+38",
        ),
    ],
)
def test_the_isolation_forest_refuses(rows, error, message):
    with pytest.raises(error, match=message):
        isolation_forest(rows)


def test_random_scores_are_uniform():
    n = 100_000
    scores = random_order(n, seed=0)
    assert scores.shape == (n,)
    assert scores.dtype == torch.float64
    assert scores.min() >= 0
    assert scores.max() < 1
    assert scores.mean() == pytest.approx(1 / 2, abs=5 * math.sqrt(1 / 12 / n))
    assert scores.square().mean() == pytest.approx(1 / 3, abs=5 * math.sqrt(4 / 45 / n))


def test_a_seed_fixes_the_random_scores_and_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert same_bits(random_order(9, seed=1), random_order(9, seed=1))
    assert not same_bits(random_order(9, seed=1), random_order(9, seed=2))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("n", [0, -1, 2.0, True])
def test_random_scores_refuse_fewer_than_one_row(n):
    with pytest.raises(ValueError, match=f"n must be a whole number >= 1, got {n}"):
        random_order(n, seed=0)


def test_a_forest_fitted_to_healthy_rows_scores_the_others():
    random = torch.Generator().manual_seed(0)
    healthy, rows = torch.randn(60, 2, 2, generator=random), 3 + torch.randn(20, 2, 2, generator=random)
    fitted = IsolationForest(random_state=4).fit(healthy.flatten(1).numpy())
    assert isolation_forest(rows, 4, healthy).tolist() == fitted.score_samples(rows.flatten(1).numpy()).tolist()
    assert isolation_forest(rows, 4, healthy).max() < isolation_forest(healthy, 4).mean()
    with pytest.raises(ValueError, match="healthy"):
        isolation_forest(rows, 4, healthy * float("nan"))
