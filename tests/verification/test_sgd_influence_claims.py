"""The ledger's claims on SGD-influence notice what is broken in them."""

import numpy as np
import pytest

from verification.claims import sgd_influence as claims
from verification.claims.sgd_influence import OneEpoch

RIGHT = {
    claims.lemma_7: "holds",
    claims.lemma_7_mean_value: "corrected",
    claims.theorem_5: "corrected",
    claims.theorem_6: "holds",
    claims.a2_remainder: "corrected",
}


@pytest.fixture(autouse=True)
def few_games(monkeypatch):
    monkeypatch.setattr(claims, "examples", lambda preset, smoke, standard: 60)


def test_the_estimate_is_what_a_small_weight_of_the_row_does():
    """By central differences of runs whose row 0 has a weight a little off 1, over the weight."""
    rng = np.random.default_rng(3)
    game = OneEpoch(rng.normal(size=(5, 3, 2)), rng.normal(size=2), np.linspace(0.5, 1.0, 5), 0.2)

    def end(weight):
        theta = game.start
        for t, (rate, batch) in enumerate(zip(game.rates, game.rows, strict=True)):
            weights = [weight if t == 0 and k == 0 else 1.0 for k in range(3)]
            terms = [w * game.gradient(theta, row) for w, row in zip(weights, batch, strict=True)]
            theta = theta - rate * np.mean(terms, axis=0)
        return theta

    slope = (end(1 - 1e-5) - end(1 + 1e-5)) / 2e-5
    assert game.estimate(game.run(without=False)) == pytest.approx(slope, rel=1e-8)
    assert game.run(without=True)[-1] == pytest.approx(end(0.0), rel=1e-12)
    assert game.run(without=False)[-1] == pytest.approx(end(1.0), rel=1e-12)


def test_the_turning_run_turns_both_ways_and_projections_shrink_it_as_stated():
    influence, estimate = claims.turned(8, np.radians(80.0), 0.99)
    angles = [np.degrees(np.arctan2(*one[::-1])) for one in (influence, estimate)]
    assert angles == pytest.approx([80.0, -80.0], abs=1e-3)
    size = (0.99 * np.cos(np.radians(10.0))) ** 8
    assert [np.linalg.norm(one) for one in (influence, estimate)] == pytest.approx([size, size], rel=1e-4)


def begin_the_product_with_the_rows_own_step(patch):
    patch.setattr(OneEpoch, "h", lambda self, a: float(np.prod(1 - self.rates * a) * np.linalg.norm(self.first)))
    return claims.lemma_7


def take_the_gradient_for_the_first_difference(patch):
    patch.setattr(OneEpoch, "first", property(lambda self: self.rates[0] * self.gradient(self.start, self.rows[0, 0])))
    return claims.theorem_6


def forget_the_hessians(patch):
    patch.setattr(OneEpoch, "estimate", lambda self, states: self.first)
    return claims.theorem_6


def turn_both_the_same_way(patch):
    right = claims.turned
    patch.setattr(claims, "turned", lambda *settings: (right(*settings)[0],) * 2)
    return claims.theorem_5


def halve_the_lipschitz_constant(patch):
    right = OneEpoch.lipschitz.fget
    patch.setattr(OneEpoch, "lipschitz", property(lambda self: right(self) / 4))
    return claims.theorem_6


def begin_at_twice_the_gradient(patch):
    right = claims._solving
    patch.setattr(claims, "_solving", lambda hessians, b, gamma: right(hessians, 2 * b, gamma))
    return claims.a2_remainder


def take_the_hessian_for_a_constant(patch):
    right = OneEpoch.hessian
    patch.setattr(OneEpoch, "hessian", lambda self, theta, batch: right(self, 0 * theta, batch))
    return claims.lemma_7_mean_value


@pytest.mark.parametrize("compute", RIGHT)
def test_without_a_fault_so_few_games_give_the_recorded_verdict(compute):
    assert compute("smoke").verdict == RIGHT[compute]


@pytest.mark.parametrize(
    "fault",
    [
        begin_the_product_with_the_rows_own_step,
        take_the_gradient_for_the_first_difference,
        forget_the_hessians,
        turn_both_the_same_way,
        halve_the_lipschitz_constant,
        begin_at_twice_the_gradient,
        take_the_hessian_for_a_constant,
    ],
)
def test_a_fault_changes_the_verdict(monkeypatch, fault):
    broken = fault(monkeypatch)
    try:
        verdict = broken("smoke").verdict
    except ValueError:  # a root that is not there
        verdict = "error"
    assert verdict != RIGHT[broken]
