"""The experiments, each a file that declares itself."""

from reports.experiment import Experiment
from reports.experiments.dcgan_accuracy import DCGAN_ACCURACY
from reports.experiments.dcgan_cleansing import DCGAN_CLEANSING
from reports.experiments.dcgan_traceback import DCGAN_TRACEBACK
from reports.experiments.fcgan_accuracy import FCGAN_ACCURACY
from reports.experiments.fcgan_cleansing import FCGAN_CLEANSING
from reports.experiments.fcgan_kinks import FCGAN_KINKS
from reports.experiments.lds import LDS
from reports.experiments.lqgan_accuracy import LQGAN_ACCURACY
from reports.experiments.lqgan_cleansing import LQGAN_CLEANSING
from reports.experiments.lqgan_initialisation import LQGAN_INITIALISATION
from reports.experiments.sgd_influence_accuracy import SGD_INFLUENCE_ACCURACY
from reports.experiments.sgd_influence_cleansing import SGD_INFLUENCE_CLEANSING
from reports.experiments.stylegan_accuracy import STYLEGAN_ACCURACY
from reports.experiments.stylegan_cleansing import STYLEGAN2_CLEANSING, STYLEGAN_CLEANSING

__all__ = ["EXPERIMENTS"]

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        LQGAN_ACCURACY,
        LQGAN_INITIALISATION,
        LQGAN_CLEANSING,
        FCGAN_ACCURACY,
        FCGAN_KINKS,
        FCGAN_CLEANSING,
        DCGAN_ACCURACY,
        DCGAN_TRACEBACK,
        DCGAN_CLEANSING,
        STYLEGAN_ACCURACY,
        STYLEGAN_CLEANSING,
        STYLEGAN2_CLEANSING,
        LDS,
        SGD_INFLUENCE_ACCURACY,
        SGD_INFLUENCE_CLEANSING,
    )
}
