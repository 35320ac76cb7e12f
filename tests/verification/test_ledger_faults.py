"""Who checks the checker? Each fault weakens the ledger in one place; `python -m verification --preset smoke` must end
with another exit status, and name a claim."""

import dataclasses
import importlib
import sys

import numpy as np
import pytest

from verification import judge, ledger, scalar, tally
from verification.dense_lqgan import LQGAN
from verification.ledger import claims, differences, entry, recorded

claims()
errors, own_results, influence, extensions = (
    importlib.import_module(f"verification.claims.{name}")
    for name in ("tnnls_3_errors", "own_results", "tnnls_3_influence", "tnnls_b_extensions")
)
certificate, constants, printed, sharper, suprema = (
    importlib.import_module(f"verification.bounds.{name}")
    for name in ("certificate", "constants", "printed", "sharper", "suprema")
)  # verification.bounds.certificate and .constants are functions


def everywhere(patch, module, name, wrong):
    """Put ``wrong`` in place of a function in every module of the ledger that has imported it."""
    right = getattr(module, name)
    for path, one in list(sys.modules.items()):
        if path.startswith("verification.") and getattr(one, name, None) is right:
            patch.setattr(one, name, wrong)


# Bounds that are weaker, or false --------------------------------------------------------------------


def theorem_2_without_its_first_term(patch):
    everywhere(patch, printed, "estimator_slope", lambda c: 0 * c.row_gradient)


def theorem_2_with_one_rho(patch):
    right = printed.theorem_2

    def wrong(c, radius, steps, terms):
        return right(c, radius, steps, terms) - radius * float(c.sigma) ** steps

    everywhere(patch, printed, "theorem_2", wrong)


def theorem_2_with_a_power_of_m(patch):
    right = printed.theorem_2

    def wrong(c, radius, steps, terms):
        return right(c, radius, steps, terms + 1) + printed.tail(c, terms) - printed.tail(c, terms + 1)

    everywhere(patch, printed, "theorem_2", wrong)


def a_tail_with_one_term_more(patch):
    right = printed.tail
    everywhere(patch, printed, "tail", lambda c, terms: right(c, terms + 1))


def a_nonlinearity_with_two_squares(patch):
    everywhere(patch, printed, "nonlinearity", lambda c: printed._two_terms(c, *[(1 - float(c.sigma)) ** -2] * 2))


def corollary_2_with_sigma_to_the_t(patch):
    def wrong(c, steps):
        s = float(c.sigma)
        return printed._two_terms(c, s**steps / (1 - s) ** 2, s ** (2 * steps - 1) / (1 - s) ** 3)

    everywhere(patch, printed, "corollary_2", wrong)


def theorem_1_without_its_second_term(patch):
    right = printed.theorem_1
    everywhere(patch, printed, "theorem_1", lambda c, steps: right(dataclasses.replace(c, lipschitz=0.0), steps))


def corollary_1_of_one_step_less(patch):
    right = printed.corollary_1
    everywhere(patch, printed, "corollary_1", lambda c, steps: right(c, max(steps - 1, 0)))


def a_recursion_with_a_quarter_of_the_constant(patch):
    right = sharper.direct_recursion

    def wrong(c, *rest):
        return right(dataclasses.replace(c, lipschitz=c.lipschitz / 2), *rest)

    everywhere(patch, sharper, "direct_recursion", wrong)


def lemma_3_of_one_step_less(patch):
    right = printed.lemma_3
    everywhere(patch, printed, "lemma_3", lambda c, steps: np.roll(right(c, steps), 1, axis=0))


def lemma_5_with_a_square(patch):
    everywhere(patch, printed, "lemma_5", lambda sigma, radius, steps: radius * sigma ** (2 * np.arange(steps + 1)))


def lemma_6_halved(patch):
    right = printed.lemma_6
    everywhere(patch, printed, "lemma_6", lambda c: right(c) / 2)


# Constants that are too small ------------------------------------------------------------------------


def less(patch, **factors):
    right = constants.constants

    def wrong(*arguments, **options):
        found = right(*arguments, **options)
        return dataclasses.replace(found, **{name: f * getattr(found, name) for name, f in factors.items()})

    everywhere(patch, constants, "constants", wrong)


def a_tenth_of_the_lipschitz_constant(patch):
    less(patch, lipschitz=0.1)


def a_tenth_of_the_rows_curvature(patch):
    less(patch, row_curvature=0.1)


def nine_tenths_of_the_rows_gradient(patch):
    less(patch, row_gradient=0.9)


def sigma_at_the_centre(patch):
    right = constants._constants_on

    def wrong(game, center, radius, *rest):
        found = right(game, center, radius, *rest)
        return found | {"sigma": right(game, center, 1e-9 * radius, *rest)["sigma"]}

    everywhere(patch, constants, "_constants_on", wrong)


def a_third_derivative_without_its_peak(patch):
    right = suprema.sigmoid_suprema

    def wrong(logits, halfwidth):
        return right(logits, 0 * halfwidth)

    everywhere(patch, suprema, "sigmoid_suprema", wrong)


def a_step_matrix_without_the_removed_row(patch):
    patch.setattr(constants.Constants, "uniform", lambda self: self)
    less(patch, sigma_removed=0.1)


# A certificate that is too sure ----------------------------------------------------------------------


def a_gain_without_the_second_derivative(patch):
    right = certificate.next_radius

    def wrong(game, theta, matrix, jumps, third, guess, *rest):
        bent = game.eta * np.einsum("abc,jc->jab", third, guess)
        return right(game, theta, matrix, jumps + bent, third, guess, *rest)

    everywhere(patch, certificate, "next_radius", wrong)


def a_radius_without_its_square(patch):
    right = certificate.next_radius

    def wrong(*arguments):
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(certificate, "trilinear_norm", lambda tensor: 0.0)
            return right(*arguments)

    everywhere(patch, certificate, "next_radius", wrong)


def a_correction_that_is_not_followed(patch):
    right = certificate.certificate

    def wrong(*arguments, **options):
        found = right(*arguments, **options)
        return certificate.Certificate(0.5 * found.correction, found.radius)

    everywhere(patch, certificate, "certificate", wrong)


# A judge that looks away -----------------------------------------------------------------------------


def a_tally_ten_times_weaker(patch):
    right = tally.Tally.add
    patch.setattr(
        tally.Tally, "add", lambda self, measured, bound, allowance: right(self, measured / 10, bound, allowance)
    )


def an_exact_tally_that_counts_nothing(patch):
    def wrong(self, measured, bound):
        self.measured.append(float(measured))
        self.bound.append(float(bound))
        self.clear.append(True)

    patch.setattr(tally.Tally, "add_exact", wrong)


def no_violations(patch):
    patch.setattr(tally.Tally, "violations", property(lambda self: 0, lambda self, value: None), raising=False)


def no_floor(patch):
    right = tally.Tally.verdict
    patch.setattr(tally.Tally, "verdict", lambda self, floor: right(self, 0.0))


def a_case_is_enough(patch):
    patch.setattr(tally, "ENOUGH", 1)


def mended_without_looking(patch):
    everywhere(patch, tally, "mended", lambda fails, tallies, floor: "corrected" if fails else "holds")


def close_to_anything(patch):
    def wrong(value, expected, tolerance, numbers=None, plot=None):
        return judge.at_most(0, 0, numbers, plot)

    everywhere(patch, judge, "close", wrong)


def a_slope_of_two(patch):
    everywhere(patch, judge, "slope", lambda x, y: (2.0, 0.0))


def at_most_anything(patch):
    right = judge.at_most

    def wrong(error, tolerance, numbers=None, plot=None):
        return dataclasses.replace(right(error, tolerance, numbers, plot), verdict="holds")

    everywhere(patch, judge, "at_most", wrong)


def corrected_in_any_case(patch):
    right = judge.correction

    def wrong(printed_error, amended_error, tolerance, printed, amended, control=""):
        return right(printed_error, 0.0, tolerance, printed, amended, control)

    everywhere(patch, judge, "correction", wrong)


# Claims that ask less --------------------------------------------------------------------------------


def a_tolerance_eleven_times_wider(patch):
    right = judge.close

    def wrong(value, expected, tolerance, *rest):
        return right(value, expected, 11 * tolerance, *rest)

    patch.setattr(influence, "close", wrong)


def a_tolerance_of_one(patch):
    right = judge.at_most
    patch.setattr(influence, "at_most", lambda error, tolerance, *rest: right(error, 1.0, *rest))


def a_lower_floor(patch):
    right = tally.never_violated
    patch.setattr(
        errors, "never_violated", lambda tallies, floor, *rest, **options: right(tallies, 0.0, *rest, **options)
    )


def a_reference_compared_with_itself(patch):
    patch.setattr(extensions, "relative", lambda one, other: judge.relative(other, other))


def an_identity_compared_with_itself(patch):
    patch.setattr(influence, "relative", lambda one, other: judge.relative(one, one))


def a_search_that_finds_nothing(patch):
    patch.setattr(errors, "search", lambda *arguments: 0.0)


def exact_games_that_stand_still(patch):
    patch.setattr(scalar.Exact, "jump", lambda self, theta: 0 * theta)


def runs_that_are_not_retrained(patch):
    right = LQGAN.without
    patch.setattr(LQGAN, "without", lambda self, rows: np.ones_like(right(self, rows)))


def a_sign_flipped_on_both_sides(patch):
    def negative(right):
        return lambda *arguments: -right(*arguments)

    for name in ("velocity", "jacobian", "row_jumps"):
        patch.setattr(LQGAN, name, negative(getattr(LQGAN, name)))


def a_set_that_loses_a_row(patch):
    right = certificate.certificate

    def wrong(*arguments, members=None, **options):
        smaller = members if members is None else members & (np.cumsum(members, axis=1) > 1)
        return right(*arguments, members=smaller, **options)

    everywhere(patch, certificate, "certificate", wrong)


def a_rank_certificate_that_forgets_one_error(patch):
    right = certificate.rank_certificate
    everywhere(patch, certificate, "rank_certificate", lambda scores, errors: right(scores, 1e-3 * errors))


def a_newton_kantorovich_without_the_rows_curvature(patch):
    right = sharper._solved_curvatures
    everywhere(patch, sharper, "_solved_curvatures", lambda *arguments: tuple(0 * one for one in right(*arguments)))


def a_tail_without_the_inverse(patch):
    patch.setattr(own_results.np.linalg, "inv", lambda matrix: np.eye(len(matrix)))


FAULTS = {
    theorem_2_without_its_first_term: "the-bounds",
    theorem_2_with_one_rho: "the-bounds",
    theorem_2_with_a_power_of_m: "the-bounds",
    a_tail_with_one_term_more: "theorem-2-steps",
    a_nonlinearity_with_two_squares: "the-bounds",
    corollary_2_with_sigma_to_the_t: "the-bounds",
    theorem_1_without_its_second_term: "the-bounds",
    corollary_1_of_one_step_less: "the-bounds",
    a_recursion_with_a_quarter_of_the_constant: "the-bounds",
    lemma_3_of_one_step_less: "the-bounds",
    lemma_5_with_a_square: "the-bounds",
    lemma_6_halved: "the-bounds",
    a_tenth_of_the_lipschitz_constant: "the-constants",
    a_tenth_of_the_rows_curvature: "the-constants",
    nine_tenths_of_the_rows_gradient: "the-constants",
    sigma_at_the_centre: "the-constants",
    a_third_derivative_without_its_peak: "the-constants",
    a_step_matrix_without_the_removed_row: "the-constants",
    a_gain_without_the_second_derivative: "the-certificates-step",
    a_radius_without_its_square: "the-certificates-step",
    a_correction_that_is_not_followed: "certificate",
    a_tally_ten_times_weaker: "the-judge",
    an_exact_tally_that_counts_nothing: "the-judge",
    no_violations: "the-judge",
    no_floor: "the-judge",
    a_case_is_enough: "the-judge",
    mended_without_looking: "the-judge",
    close_to_anything: "the-judge",
    a_slope_of_two: "the-judge",
    at_most_anything: "the-judge",
    corrected_in_any_case: "the-judge",
    a_tolerance_eleven_times_wider: "removal-of-sets",
    a_tolerance_of_one: "eq10-recursion",
    a_lower_floor: "lemma-6",
    a_reference_compared_with_itself: "averaged-generator",
    an_identity_compared_with_itself: "eq10-recursion",
    a_search_that_finds_nothing: "theorem-2",
    exact_games_that_stand_still: "lemma-6",
    runs_that_are_not_retrained: "lemma-3",
    a_sign_flipped_on_both_sides: "agd-step",
    a_set_that_loses_a_row: "certificate-of-sets",
    a_rank_certificate_that_forgets_one_error: "certified-tau",
    a_newton_kantorovich_without_the_rows_curvature: "aid-from-where-it-stands",
    a_tail_without_the_inverse: "stopping-rule",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_weakened_ledger_is_noticed_and_a_claim_named(fault, monkeypatch):
    fault(monkeypatch)
    found = entry(FAULTS[fault], "smoke")
    assert differences([found]), f"{found['verdict']}, {found['measured']}"


def test_every_tolerance_and_floor_is_recorded():
    assert all(one.keys() == {"verdict", "tolerance", "floor"} for one in recorded().values())


def test_a_claim_that_is_not_confirmed_shows_reading_witness_amendment_and_control():
    for name, one in recorded().items():
        if one["verdict"] in ("corrected", "refuted"):
            assert claims()[name].reading, name
            assert claims()[name].smallest, name


def test_a_broken_check_is_reported_as_an_error(monkeypatch):
    monkeypatch.setitem(
        ledger._CLAIMS, "minimax-f", dataclasses.replace(claims()["minimax-f"], compute=lambda preset: 1 / 0)
    )
    found = entry("minimax-f", "smoke")
    assert (found["verdict"], found["measured"]) == ("error", "ZeroDivisionError: division by zero")
    assert differences([found])
