"""Influence estimation for GANs: which training rows make the generator worse?

Without retraining, :func:`itd` and :func:`aid` estimate how a generation metric would change if a row were removed;
:func:`counterfactual` retrains and measures it. Sources: "TNNLS" is Terashita, Ohashi and Hara, Data Cleansing for
GANs, IEEE TNNLS 2025; "ICLR" is Terashita et al., Influence Estimation for Generative Adversarial Networks, 2021.

Example:
    >>> import gan_influence as gi
    >>> data = gi.datasets.normal_1d(50, seed=0)
    >>> latents = gi.datasets.normal_1d(50, mean=0.0, seed=1)
    >>> game = gi.Game(*gi.models.lqgan(seed=0), loss="minimax")
    >>> trace = gi.train(game, data, gi.FullBatch(latents), steps=100, optimizer=gi.SGD(lr=0.01))
    >>> metric = gi.metrics.AverageLogLikelihood(data, latents)
    >>> gi.itd(trace, metric).shape
    torch.Size([50])
"""

from gan_influence import baselines, datasets, losses, metrics, models, solvers
from gan_influence.aid import ConvergenceError, aid
from gan_influence.checkpoint import Checkpoint
from gan_influence.counterfactual import counterfactual, counterfactuals
from gan_influence.game import Game, Players
from gan_influence.itd import itd
from gan_influence.optim import SGD, Adam, AdamW, InverseSqrt, RMSProp
from gan_influence.schedule import Batch, FullBatch, Minibatches
from gan_influence.steps import DivergenceError
from gan_influence.trace import Trace
from gan_influence.training import retrain, train
from gan_influence.validation import Agreement, validate

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Agreement",
    "Batch",
    "Checkpoint",
    "ConvergenceError",
    "DivergenceError",
    "FullBatch",
    "Game",
    "InverseSqrt",
    "Minibatches",
    "Players",
    "RMSProp",
    "Trace",
    "aid",
    "baselines",
    "counterfactual",
    "counterfactuals",
    "datasets",
    "itd",
    "losses",
    "metrics",
    "models",
    "retrain",
    "solvers",
    "train",
    "validate",
]
