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

from gan_influence import baselines, datasets, losses, metrics, models, nn, penalties, solvers
from gan_influence.aid import ConvergenceError, aid
from gan_influence.batch import Batch
from gan_influence.costs import Costs
from gan_influence.counterfactual import counterfactual, counterfactuals
from gan_influence.datamodels import DatamodelingScore, lds
from gan_influence.divergence import DivergenceError
from gan_influence.game import Game
from gan_influence.harmfulness import group_scores, harmful_rows, harmfulness
from gan_influence.history import Checkpoint, DamagedFileError
from gan_influence.itd import itd
from gan_influence.lora import adapters, load_adapters, lora, merged
from gan_influence.metrics import Metric, measure
from gan_influence.optimizers import (
    SGD,
    Adam,
    AdamW,
    Clipped,
    Groups,
    InverseSqrt,
    Optimizer,
    RMSProp,
    TorchRates,
)
from gan_influence.players import Players
from gan_influence.running_statistics import Recompute
from gan_influence.saving import load_trace
from gan_influence.schedules import FullBatch, Minibatches, Schedule, rows
from gan_influence.solvers import Solver
from gan_influence.state import Start, State
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
    "Clipped",
    "ConvergenceError",
    "Costs",
    "DamagedFileError",
    "DatamodelingScore",
    "DivergenceError",
    "FullBatch",
    "Game",
    "Groups",
    "InverseSqrt",
    "Metric",
    "Minibatches",
    "Optimizer",
    "Players",
    "RMSProp",
    "Recompute",
    "Schedule",
    "Solver",
    "Start",
    "State",
    "TorchRates",
    "Trace",
    "adapters",
    "aid",
    "baselines",
    "counterfactual",
    "counterfactuals",
    "datasets",
    "group_scores",
    "harmful_rows",
    "harmfulness",
    "itd",
    "lds",
    "load_adapters",
    "load_trace",
    "lora",
    "losses",
    "measure",
    "merged",
    "metrics",
    "models",
    "nn",
    "penalties",
    "retrain",
    "rows",
    "solvers",
    "train",
    "validate",
]
