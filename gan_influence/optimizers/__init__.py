"""Update maps as pure functions of the optimiser's state and the gradient.

A state is a tensor ``(..., rows, d)``: row 0 holds the parameters, further rows what the optimiser remembers of
them. Both :func:`gan_influence.train` and the pull-back of the reverse sweep call the same ``update``, so that the
sweep is its exact derivative: through momentum, second moments, bias correction, weight decay and clipping.

The arithmetic of :class:`SGD`, :class:`RMSProp`, :class:`Adam` and :class:`AdamW` is that of ``torch.optim``, defaults
included. :class:`Clipped` cuts gradients before one of them sees these, :class:`Groups` takes several for one player,
:class:`TorchRates` makes a learning rate of a scheduler of ``torch.optim.lr_scheduler``, and :func:`from_torch` goes on
from the state of one of ``torch.optim``'s optimisers.
"""

from gan_influence.optimizers.adam import Adam, AdamW
from gan_influence.optimizers.clipping import Clipped
from gan_influence.optimizers.groups import Groups
from gan_influence.optimizers.protocol import LearningRate, Optimizer, fitted
from gan_influence.optimizers.rates import InverseSqrt, TorchRates, rates_of
from gan_influence.optimizers.rmsprop import RMSProp
from gan_influence.optimizers.sgd import SGD
from gan_influence.optimizers.torch_state import from_torch

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Clipped",
    "Groups",
    "InverseSqrt",
    "LearningRate",
    "Optimizer",
    "RMSProp",
    "TorchRates",
    "fitted",
    "from_torch",
    "rates_of",
]
