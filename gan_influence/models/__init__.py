"""The papers' models: pairs ``(generator, discriminator)``, supervised ones, and the classifier that scores images."""

from gan_influence.models.classifier import Classifier, classifier, fit_classifier, load_classifier, save_classifier
from gan_influence.models.dcgan import dcgan
from gan_influence.models.fcgan import fcgan
from gan_influence.models.lqgan import lqgan
from gan_influence.models.style_checkpoints import load_style_checkpoint
from gan_influence.models.stylegan import stylegan
from gan_influence.models.stylegan2 import stylegan2
from gan_influence.models.styles import style_latents
from gan_influence.models.supervised import (
    autoencoder,
    cifar_cnn,
    dense_network,
    logistic_regression,
    mnist_cnn,
)

__all__ = [
    "Classifier",
    "autoencoder",
    "cifar_cnn",
    "classifier",
    "dcgan",
    "dense_network",
    "fcgan",
    "fit_classifier",
    "load_classifier",
    "load_style_checkpoint",
    "logistic_regression",
    "lqgan",
    "mnist_cnn",
    "save_classifier",
    "style_latents",
    "stylegan",
    "stylegan2",
]
