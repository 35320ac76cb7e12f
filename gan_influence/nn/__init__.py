"""Layers for games: with second derivatives written out, and with the randomness that a batch brings along.

A sweep differentiates a step of training, that is the first derivative, once more. There autograd transposes whole
batches for a convolution, and takes dozens of small operations for a normalisation. Convolutions, the sigmoid and the
normalisation here compute what torch's own layers compute, with derivatives of their own.
"""

from gan_influence.nn import augment
from gan_influence.nn.augment import diff_augment
from gan_influence.nn.convolution import Convolution, Deconvolution
from gan_influence.nn.dropout import Dropout
from gan_influence.nn.norm import ImageNorm
from gan_influence.nn.sigmoid import Sigmoid

__all__ = ["Convolution", "Deconvolution", "Dropout", "ImageNorm", "Sigmoid", "augment", "diff_augment"]
