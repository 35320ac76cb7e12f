"""Every numbered item of the papers, and what tests it here: ``python -m verification --coverage``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

__all__ = ["ITEMS", "SENTENCES", "Item", "table"]


@dataclass(frozen=True)
class Item:
    """A numbered equation, theorem, table and so on.

    Attributes:
        paper: ``TNNLS``, ``ICLR``, or ``NeurIPS``, of which the supplement is here.
        kind, number: as the paper has them.
        what: in a few words.
        tested_by: claims of the ledger (``python -m verification --only``) or experiments (``python -m reports``).
        why_not: where nothing tests it, the reason.
    """

    paper: str
    kind: str
    number: int
    what: str
    tested_by: tuple[str, ...] = ()
    why_not: str = ""


DEFINES = "defines a symbol; what is said of it is tested where it is used"
LAYERS = "an architecture; tests/models/test_dcgan.py and tests/models/test_fcgan.py count its layers and parameters"
CLASSIFIER = "an architecture; tests/models/test_classifier.py has the sizes of its layers"
MODELS = "an architecture; tests/models/test_supervised.py counts its layers and parameters"
SETTINGS = "settings; the experiments' presets have them, or the published code's where these differ"
REASONS = (DEFINES, LAYERS, CLASSIFIER, MODELS, SETTINGS)


def _items(paper: str, kind: str, *rows: tuple[str, str], first: int = 1) -> list[Item]:
    """Items 1, 2, ... from what they are and what tests them: names in a row, or a reason why nothing does.

    ``first`` is the number of the first one where a part of a paper begins with a later one.
    """
    return [
        Item(paper, kind, number, what, why_not=how)
        if how in REASONS
        else Item(paper, kind, number, what, tuple(how.split()))
        for number, (what, how) in enumerate(rows, start=first)
    ]


ITEMS: list[Item] = [
    *_items(
        "TNNLS",
        "equation",
        ("minimax problem", "minimax-f"),
        ("V and its regulariser", "minimax-f agd-step"),
        ("adversarial gradient descent", "agd-step"),
        ("concatenated gradient v", "agd-step"),
        ("problem without row j", "lemma-6 implicit-derivative"),
        ("V without row j", "counterfactual-agd"),
        ("counterfactual descent", "counterfactual-agd"),
        ("its gradient", "counterfactual-agd"),
        ("one step of the influence", "removal-remainder eq10-recursion"),
        ("ITD influence", "eq10-recursion itd-finite-differences"),
        ("stationary point of the interpolation", "implicit-derivative"),
        ("derivative of the equilibrium", "implicit-derivative"),
        ("truncated Neumann series", "aid-neumann-limit stopping-rule"),
        ("AID influence", "aid-series"),
        ("linearised metric", "metric-linearisation"),
        ("ITD-EIGEM and AID-EIGEM", "algorithm-1 aid-series"),
        ("ITD-EIGEM, written out", "algorithm-1"),
        ("AID-EIGEM, written out", "aid-series algorithm-2"),
        ("supervised recursion", "sgd-influence"),
        ("Nash: V convex in phi", "lemma-2-equivalence"),
        ("Nash: V concave in psi", "lemma-2-equivalence"),
        ("Nash: gradient in phi", "lemma-2-equivalence"),
        ("Nash: gradient in psi", "lemma-2-equivalence"),
        ("arithmetic-geometric sum", "lemma-4"),
        ("two parts of ITD's error", "theorem-1"),
        ("first part, its sum", "theorem-1-edges"),
        ("second part, its sum", "theorem-1-edges"),
        ("four parts of AID's error", "theorem-2-step-33 theorem-2-steps"),
        ("AID at theta^(T) and at theta*", "theorem-2-step-33"),
        ("its term in L_f', within (33)", "theorem-2-step-33"),
        ("its term in L_J, in products, within (33)", "theorem-2-step-33"),
        ("its term in L_J, within (33)", "theorem-2-step-33"),
        ("both, by the smaller power", "theorem-2-step-33"),
        ("series' tail", "theorem-2-steps"),
        ("linearisation of the equilibrium", "theorem-2-steps"),
        ("its term in L_f', within (38)", "theorem-2-steps"),
        ("its term in L_J, within (38)", "theorem-2-steps"),
        ("both", "theorem-2-steps theorem-2-last-display"),
        ("what is left of T steps", "theorem-2-steps"),
        ("minibatch loss", "minibatch-loss"),
        ("minibatch descent", "minibatch"),
        ("its gradient", "minibatch"),
        ("minibatch loss without row j", "minibatch-loss"),
        ("counterfactual minibatch descent", "minibatch"),
        ("its gradient", "minibatch"),
        ("one step of the influence", "minibatch"),
        ("minibatch ITD influence", "minibatch practical-training stylegan-accuracy"),
    ),
    *_items(
        "TNNLS",
        "assumption",
        ("monotone J on a ball", "assumption-1-lqgan lqgan-spectrum"),
        ("invertible J", "assumption-2-lqgan assumption-1-implies-2"),
        ("Lipschitz J", "theorem-1-global-constants"),
        ("start in the ball", "lemma-5 lqgan-converges"),
    ),
    *_items(
        "TNNLS",
        "lemma",
        ("Z contracts", "lemma-1"),
        ("convergence to a unique equilibrium", "lemma-2 lemma-2-equivalence"),
        ("distance of the runs", "lemma-3 mean-value-theorem"),
        ("arithmetic-geometric sum", "lemma-4"),
        ("approach at the rate sigma_B", "lemma-5"),
        ("shift of the equilibrium", "lemma-6"),
    ),
    *_items("TNNLS", "theorem", ("ITD's error", "theorem-1"), ("AID's error", "theorem-2 optimal-terms")),
    *_items(
        "TNNLS",
        "corollary",
        ("sigma > 1", "corollary-1 exponential-growth"),
        ("sigma_B < 1", "corollary-2 corollary-2-small-rate"),
    ),
    *_items(
        "TNNLS",
        "definition",
        ("influence on parameters", "counterfactual-agd"),
        ("influence on a metric", "definition-2-sign"),
    ),
    *_items("TNNLS", "algorithm", ("ITD-EIGEM", "algorithm-1 one-sweep-for-all"), ("AID-EIGEM", "algorithm-2")),
    *_items(
        "TNNLS",
        "table",
        (
            "ITD and AID compared",
            "complexity-itd-time complexity-itd-memory complexity-aid-time complexity-aid-memory theorem-1 theorem-2",
        ),
        ("density and coverage on AFHQ-Cat", "stylegan-cleansing"),
        ("MNIST classifier", CLASSIFIER),
        ("DCGAN", LAYERS),
        ("tau on LQGAN", "lqgan-accuracy lqgan-initialisation lds"),
        ("tau on DCGAN", "dcgan-accuracy text-against-tables"),
        ("cleansing, ALL on 1D-Normal", "lqgan-cleansing text-against-tables"),
        ("cleansing, IS on MNIST", "dcgan-cleansing text-against-tables"),
        ("cleansing, FID on MNIST", "dcgan-cleansing text-against-tables"),
    ),
    *_items(
        "TNNLS",
        "figure",
        ("tau over T and M", "lqgan-accuracy dcgan-accuracy"),
        ("metrics after cleansing", "lqgan-cleansing dcgan-cleansing stylegan-cleansing"),
        ("harmful rows of 1D-Normal", "lqgan-cleansing"),
        ("harmful digits", "dcgan-cleansing"),
        ("harmful cats", "stylegan-cleansing"),
        ("generated cats", "stylegan-cleansing"),
        ("more harmful and helpful cats", "stylegan-cleansing"),
        ("more generated cats", "stylegan-cleansing"),
        ("more generated cats", "stylegan-cleansing"),
        ("StyleGAN2 after cleansing", "stylegan2-cleansing"),
    ),
    *_items(
        "TNNLS",
        "footnote",
        ("eta as a scaling coefficient", "aid-series aid-of-batches"),
        ("IS as a differentiable function", "inception-score-formula"),
        ("ascent for descent", "sgd-influence"),
        ("last epoch and the averaged generator", "averaged-generator-last-epoch"),
    ),
    *_items(
        "ICLR",
        "equation",
        ("Nash equilibrium of two losses", DEFINES),
        ("expected losses", "influence-on-the-generators-loss influence-on-the-discriminators-loss"),
        ("ASGD's rates and joint gradient", "asgd-influence counterfactual-sgd-mean"),
        ("ASGD's Jacobian blocks", "asymmetry block-form"),
        ("one step of the difference", "asgd-influence upper-block-sign"),
        ("ASGD-influence, one epoch", "asgd-influence"),
        ("ASGD-influence, K epochs", "asgd-influence asgd-influence-first-order"),
        ("linear influence", "asgd-influence inference-phase"),
        ("influence on a metric", "definition-2-sign"),
        ("its slope, by the chain rule", "iclr-eq-10 all-formula inception-score-formula fid-formula"),
        ("one player", "sgd-influence-minibatch counterfactual-sgd-mean"),
        ("the generator's block", "upper-block-sign iclr-eq-10"),
    ),
    *_items("ICLR", "algorithm", ("training phase", "asgd-influence"), ("inference phase", "inference-phase")),
    *_items(
        "ICLR",
        "table",
        ("MNIST classifier", CLASSIFIER),
        ("hyperparameters, Section 5.1", SETTINGS),
        ("FCGAN", LAYERS),
        ("DCGAN", LAYERS),
        ("hyperparameters, Section 5.2", SETTINGS),
        ("cleansing, ALL on 2D-Normal", "fcgan-cleansing"),
        ("cleansing, IS on MNIST", "dcgan-cleansing"),
        ("cleansing, FID on MNIST", "dcgan-cleansing"),
        ("harmful rows of 2D-Normal", "fcgan-cleansing"),
        ("harmful digits", "dcgan-cleansing"),
        ("2D-Normal, other seeds", "fcgan-cleansing"),
        ("MNIST, other seeds", "dcgan-cleansing"),
    ),
    *_items(
        "ICLR",
        "figure",
        ("tau and Jaccard index over k", "fcgan-accuracy fcgan-kinks dcgan-traceback"),
        ("metrics after cleansing", "fcgan-cleansing dcgan-cleansing"),
        ("harmful rows of 2D-Normal", "fcgan-cleansing"),
        ("harmful digits", "dcgan-cleansing"),
        ("data setting, 2D-Normal", SETTINGS),
        ("data setting, IS", SETTINGS),
        ("data setting, FID", SETTINGS),
    ),
    *_items(
        "NeurIPS",
        "equation",
        ("K&L's quadratic for a row", "sgd-a2-remainder"),
        ("size of the estimate", "sgd-lemma-7"),
        ("size of the influence", "sgd-lemma-7 sgd-lemma-7-mean-value"),
        ("K&L's quadratic for a query", "sgd-influence-accuracy"),
        first=6,
    ),
    *_items(
        "NeurIPS",
        "theorem",
        ("error, strongly convex", "sgd-theorem-5"),
        ("error, not convex", "sgd-theorem-6"),
        first=5,
    ),
    *_items("NeurIPS", "lemma", ("sizes between h_j(Lambda) and h_j(lambda)", "sgd-lemma-7"), first=7),
    *_items("NeurIPS", "table", ("settings of SGD, Section 7.1", "sgd-influence-accuracy"), first=2),
    *_items(
        "NeurIPS",
        "figure",
        ("CNNs", MODELS),
        ("autoencoders", MODELS),
        ("error after cleansing, MNIST", "sgd-influence-cleansing"),
        ("its spread, MNIST", "sgd-influence-cleansing"),
        ("error after cleansing, CIFAR10", "sgd-influence-cleansing"),
        ("its spread, CIFAR10", "sgd-influence-cleansing"),
        ("runs that improve", "sgd-influence-cleansing"),
        ("influential digits", "sgd-influence-cleansing"),
        ("influential images of CIFAR10", "sgd-influence-cleansing"),
        first=4,
    ),
]

SENTENCES = (
    "damped-itd-finite-differences",
    "removal-of-sets",
    "two-steps-to-the-generator",
    "jacobian-vector-product",
    "damping-as-regulariser",
    "damping-suppresses-sigma",
    "influence-function",
    "hessian-free",
    "larger-likelihood-is-better",
    "averaged-generator",
    "rmsprop-estimator",
    "rmsprop-frozen-second-moment",
    "alternating-as-zeroed-rates",
)
"""Claims on sentences and displays that carry no number."""


def table() -> str:
    """An aligned line an item, and counts."""
    rows = [
        (f"{one.paper} {one.kind} {one.number}", one.what, ", ".join(one.tested_by) or f"- {one.why_not}")
        for one in ITEMS
    ]
    widths = [max(len(row[k]) for row in rows) for k in (0, 1)]
    lines = [f"{name.ljust(widths[0])}  {what.ljust(widths[1])}  {how}" for name, what, how in rows]
    tested = Counter(one.paper for one in ITEMS if one.tested_by)
    total = Counter(one.paper for one in ITEMS)
    lines += [f"{paper}: {tested[paper]} of {total[paper]} numbered items are tested" for paper in total]
    return "\n".join([*lines, f"and {len(SENTENCES)} claims on sentences without a number: {', '.join(SENTENCES)}"])
