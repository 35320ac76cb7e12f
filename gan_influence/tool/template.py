"""A training to be cleansed: gan-influence cleanse --game THIS_FILE.py

Put your own players, rows and settings in place of these. build() must return the same at
every call: seed what it draws.
"""

import torch

import gan_influence as gi


def build() -> dict:
    digits = gi.datasets.digits()
    training, scoring, judging = gi.datasets.split(digits, 1197, 300, 300, seed=0)
    generator, discriminator = gi.models.dcgan(16, 8, latent_size=16, seed=0)  # any two nn.Modules

    def distance(
        reference: torch.Tensor, seed: int
    ) -> gi.metrics.FrechetDistance:  # any number that players.generate(latents) gives, differentiable
        latents = torch.randn(500, 16, generator=torch.Generator().manual_seed(seed))
        return gi.metrics.FrechetDistance(lambda images: images[:, :, ::2, ::2].flatten(1), reference, latents)

    return {
        "game": gi.Game(generator, discriminator, loss="non_saturating", l2=(1e-3, 1e-3)),
        "data": training.images,  # (N, ...), or a tuple of tensors
        "schedule": gi.Minibatches(len(training.images), 64, latent_shape=(16,), seed=0),
        "steps": 1500,
        "optimizer": gi.Adam(1e-3, betas=(0.5, 0.999)),
        "metric": distance(scoring.images, 1),  # a metric of your own needs larger_is_better = True or False
        # The rest can be left out.
        "options": {"update": "alternating", "ema_decay": 0.98},  # of gi.train
        "last": 190,  # trace back, and retrain, so many last steps
        "held_out": [distance(judging.images, seed) for seed in range(2, 7)],  # before and after are measured by these
        "labels": training.labels,
        "latents": torch.randn(40, 16, generator=torch.Generator().manual_seed(9)),  # of the pictures that are shown
    }
