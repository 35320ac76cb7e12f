"""The claims on sentences of the text notice faults that are put into them, their tables and the core on purpose."""

import importlib

import numpy as np
import pytest

import gan_influence as gi
from verification import bounds, scalar
from verification.ledger import claims, differences, entry

claims()
text = importlib.import_module("verification.claims.tnnls_text")


def runs_that_stop_before_they_settle(patch):
    right = text._error_and_influence
    patch.setattr(text, "_error_and_influence", lambda rows, eta, steps: right(rows, eta, min(steps, 20)))


def an_influence_that_does_not_fall_with_the_rows(patch):
    right = text._error_and_influence

    def wrong(rows, eta, steps):
        error, influence = right(rows, eta, steps)
        return error, rows * influence

    patch.setattr(text, "_error_and_influence", wrong)


def a_theorem_2_with_an_optimum_between(patch):
    right = scalar.Known.theorem_2
    patch.setattr(scalar.Known, "theorem_2", lambda self, rho, t, m: right(self, rho, t, m) + (m - t) ** 2)


def a_theorem_2_whose_favourite_is_the_same_at_every_t(patch):
    right = scalar.Known.theorem_2
    patch.setattr(scalar.Known, "theorem_2", lambda self, rho, t, m: right(self, rho, 0, m))


def a_first_term_that_holds_z(patch):
    right = gi.aid
    patch.setattr(gi, "aid", lambda trace, metric, terms: right(trace, metric, terms=terms + 1))


def scores_without_the_mixed_block(patch):
    right = gi.itd
    patch.setattr(gi, "itd", lambda trace, metric: 0 * right(trace, metric))


def damping_with_the_wrong_sign(patch):
    right = text._norms
    patch.setattr(text, "_norms", lambda game, theta, gammas: right(game, theta, -gammas))


def an_inverse_that_is_a_third_too_small(patch):
    right = np.linalg.svd
    patch.setattr(np.linalg, "svd", lambda j, **options: right(j, **options) / 1.5)


def a_kernel_without_its_bandwidth(patch):
    right = gi.metrics.AverageLogLikelihood
    patch.setattr(gi.metrics, "AverageLogLikelihood", lambda x, z, h=1.0: right(x, z))


def a_kernel_that_adds_no_variance(patch):
    right = gi.metrics.AverageLogLikelihood
    patch.setattr(gi.metrics, "AverageLogLikelihood", lambda x, z, h=1.0: right(x, z, 0.3 * h))


def a_column_of_table_vi_taken_for_the_next(patch):
    patch.setitem(text.TABLE_VI_ITD, 1000, text.TABLE_VI_ITD[2000])


def a_row_of_table_viii_taken_for_another(patch):
    patch.setitem(text.DISC_LOSS, ("VIII", "one", "ITD"), text.TABLE_VII["ALL by ITD"] + ((0.0, 1.0),) * 4)


def a_bound_that_does_not_grow(patch):
    patch.setattr(bounds, "theorem_1", lambda c, steps: np.ones(1))


def a_difference_taken_the_other_way_round(patch):
    right = gi.counterfactual
    patch.setattr(gi, "counterfactual", lambda *of: -right(*of))


def a_metric_of_which_the_sign_is_lost(patch):
    right = gi.counterfactual
    patch.setattr(gi, "counterfactual", lambda *of: right(*of).abs())


def scores_of_the_opposite_sign(patch):
    right = gi.itd
    patch.setattr(gi, "itd", lambda trace, metric: -right(trace, metric))


FAULTS = {
    runs_that_stop_before_they_settle: "corollary-2-small-rate",
    an_influence_that_does_not_fall_with_the_rows: "corollary-2-small-rate",
    a_theorem_2_with_an_optimum_between: "optimal-terms",
    a_theorem_2_whose_favourite_is_the_same_at_every_t: "optimal-terms",
    a_first_term_that_holds_z: "hessian-free",
    scores_without_the_mixed_block: "hessian-free",
    damping_with_the_wrong_sign: "damping-suppresses-sigma",
    an_inverse_that_is_a_third_too_small: "assumption-1-implies-2",
    a_kernel_without_its_bandwidth: "larger-likelihood-is-better",
    a_kernel_that_adds_no_variance: "larger-likelihood-is-better",
    a_column_of_table_vi_taken_for_the_next: "text-against-tables",
    a_row_of_table_viii_taken_for_another: "text-against-tables",
    a_bound_that_does_not_grow: "exponential-growth",
    a_difference_taken_the_other_way_round: "definition-2-sign",
    a_metric_of_which_the_sign_is_lost: "definition-2-sign",
    scores_of_the_opposite_sign: "definition-2-sign",
}


@pytest.mark.parametrize("name", sorted(set(FAULTS.values())))
def test_without_faults_the_claim_is_as_recorded(name):
    assert not differences([entry(name, "smoke")])


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_noticed_by_its_verdict_and_not_by_a_broken_check(fault, monkeypatch):
    fault(monkeypatch)
    found = entry(FAULTS[fault], "smoke")
    assert found["verdict"] != "error", found["measured"]
    assert differences([found]), f"{found['verdict']}, {found['measured']}"
