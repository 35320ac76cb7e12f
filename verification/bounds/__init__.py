"""Rigorous constants of LQGAN over a region, and every error bound of TNNLS Section III-D and Appendix A.

`regions` hold both runs, `suprema` bound the derivatives there, and `constants` are made of them, in any of the
`norms`. They enter the bounds that are `printed`, those that are `sharper`, and the `certificate` of a run.
"""

from verification.bounds.certificate import Certificate, certificate, rank_certificate
from verification.bounds.constants import Constants, Rows, constants
from verification.bounds.norms import balanced_norm, lyapunov_norm
from verification.bounds.printed import (
    corollary_1,
    corollary_2,
    estimator_slope,
    lemma_1,
    lemma_3,
    lemma_4,
    lemma_5,
    lemma_6,
    nonlinearity,
    tail,
    theorem_1,
    theorem_2,
)
from verification.bounds.regions import Boxes, ball_box, boxes_between
from verification.bounds.sharper import (
    EquilibriumShift,
    aid_certificate,
    aid_from_where_it_stands,
    direct_recursion,
    equilibrium_shift,
    itd_in_ball,
)

__all__ = [
    "Boxes",
    "Certificate",
    "Constants",
    "EquilibriumShift",
    "Rows",
    "aid_certificate",
    "aid_from_where_it_stands",
    "balanced_norm",
    "ball_box",
    "boxes_between",
    "certificate",
    "constants",
    "corollary_1",
    "corollary_2",
    "direct_recursion",
    "equilibrium_shift",
    "estimator_slope",
    "itd_in_ball",
    "lemma_1",
    "lemma_3",
    "lemma_4",
    "lemma_5",
    "lemma_6",
    "lyapunov_norm",
    "nonlinearity",
    "rank_certificate",
    "tail",
    "theorem_1",
    "theorem_2",
]
