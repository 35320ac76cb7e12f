"""The linear datamodelling score of estimators and baselines on GANs: from which share of the rows on do sums hold?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import gan_influence as gi
from gan_influence import baselines
from gan_influence.harmfulness import larger_is_better
from reports.experiment import Drawing, Experiment, Preset, Quantity, Settings, Values
from reports.parts.agreement import finite
from reports.parts.curves import LINE, along
from reports.parts.fcgan import LATENT_SIZE
from reports.parts.fcgan import latents as fcgan_latents
from reports.shared.provenance import data_digest
from reports.summary import Summary

__all__ = ["LDS"]

SCORE, SPREAD = "LDS", "Signal"
METHODS = ("ITD", "AID", "Disc. loss (ITD)", "Isolation Forest", "Random")

SETTINGS: Settings = {
    "games": ["LQGAN", "FCGAN", "DCGAN"],
    "methods": list(METHODS),
    "kept": [0.5, 0.75, 0.9, 0.99],
    "subsets": 50,
    "lqgan": {"rows": 1000, "steps": 2000, "lr": 0.01, "terms": 1000},
    "fcgan": {"rows": 2000, "steps": 400, "lr": 1e-2, "batch": 100, "terms": 100},
    "dcgan": {"rows": 900, "steps": 100, "lr": 1e-2, "batch": 100, "channels": 4, "terms": 100},
}
SMOKE: Settings = {
    **SETTINGS,
    "games": ["LQGAN", "FCGAN"],
    "kept": [0.5, 0.9],
    "subsets": 12,
    "lqgan": {**SETTINGS["lqgan"], "rows": 200, "steps": 200, "terms": 100},
    "fcgan": {**SETTINGS["fcgan"], "rows": 300, "steps": 30},
}


def rows(settings: Settings) -> list[str]:
    return [row(game, method) for game in settings["games"] for method in settings["methods"]]


def row(game: str, method: str) -> str:
    return f"{game}: {method}"


def columns(settings: Settings) -> list[str]:
    return [f"{kept:g}" for kept in settings["kept"]]


def units(settings: Settings) -> list[str]:
    return list(settings["games"])


def run_unit(settings: Settings, seed: int, unit: str, device: str) -> dict[str, Any]:
    own = settings[unit.lower()]
    trace, metric, reference, latents = GAMES[unit](own, seed, device)
    selections = {
        "ITD": baselines.by_influence(gi.itd),
        "AID": baselines.by_influence(gi.aid, terms=own["terms"]),
        "Disc. loss (ITD)": baselines.by_discriminator_loss(reference, latents, gi.itd),
        "Isolation Forest": baselines.by_isolation_forest(),
        "Random": baselines.by_chance(seed),
    }
    sign = 1.0 if larger_is_better(metric) else -1.0  # summed harmfulness as a score: what the metric is said to gain
    scores = {name: sign * selections[name](trace, metric).double().cpu() for name in settings["methods"]}
    finite = {name: one for name, one in scores.items() if one.isfinite().all()}  # AID's series may have grown too far
    record: dict[str, Any] = {"data": data_digest(trace)}
    for kept, column in zip(settings["kept"], columns(settings), strict=True):
        found = gi.lds(trace, metric, finite, settings["subsets"], kept, seed)
        any_one = next(iter(found.values()))
        record[column] = {
            "correlation": {name: one.correlation for name, one in found.items()},
            "signal": any_one.spread / any_one.noise_floor,
        }
    return record


def combine(settings: Settings, records: dict[str, dict[str, Any]]) -> Values:
    values: Values = {SCORE: {}, SPREAD: {}}
    for game, record in records.items():
        for column in columns(settings):
            values[SPREAD].setdefault(game, {})[column] = record[column]["signal"]
            for method in settings["methods"]:
                found = record[column]["correlation"].get(method)
                values[SCORE].setdefault(row(game, method), {})[column] = None if found is None else finite(found)
    return values


# The games, each ``(own settings, seed, device) -> trace, metric, reference rows, latents``

Played = tuple[gi.Trace, Any, torch.Tensor, torch.Tensor]


def lqgan(own: Settings, seed: int, device: str) -> Played:
    streams = _streams(seed)
    normal, n = gi.datasets.normal_1d, own["rows"]
    data, z = normal(n, seed=streams[0]), normal(n, mean=0.0, seed=streams[1])
    reference, latents = normal(n, seed=streams[2]), normal(n, mean=0.0, seed=streams[3])
    game = gi.Game(*gi.models.lqgan(seed=streams[4]))
    trace = gi.train(game, data, gi.FullBatch(z), own["steps"], gi.SGD(own["lr"]), device=device)
    return trace, gi.metrics.AverageLogLikelihood(reference, latents), reference, latents


def fcgan(own: Settings, seed: int, device: str) -> Played:
    streams, n = _streams(seed), own["rows"]
    data, reference = (gi.datasets.normal_2d(n, seed=stream) for stream in streams[:2])
    latents = fcgan_latents(n, streams[2])
    game = gi.Game(*gi.models.fcgan(form="code", seed=streams[3]), loss="non_saturating")
    schedule = gi.Minibatches(n, own["batch"], (LATENT_SIZE,), seed=streams[4])
    trace = gi.train(game, data, schedule, own["steps"], gi.SGD(own["lr"]), device=device)
    return trace, gi.metrics.AverageLogLikelihood(reference, latents), reference, latents


def dcgan(own: Settings, seed: int, device: str) -> Played:
    """On scikit-learn's digits, 8 by 8 pixels; the Fréchet distance of pixels."""
    streams, n = _streams(seed), own["rows"]
    images = gi.datasets.digits().images
    order = torch.from_numpy(np.random.default_rng(streams[0]).permutation(len(images)))
    data, reference = images[order[:n]], images[order[n:]]
    latents = torch.randn(len(reference), 32, generator=torch.Generator().manual_seed(streams[2]))
    game = gi.Game(*gi.models.dcgan(own["channels"], 8, seed=streams[3]), loss="non_saturating", l2=(1e-3, 1e-3))
    schedule = gi.Minibatches(n, own["batch"], (32,), seed=streams[4])
    trace = gi.train(game, data, schedule, own["steps"], gi.SGD(own["lr"]), device=device)
    return trace, gi.metrics.FrechetDistance(_pixels, reference, latents), reference, latents


def _pixels(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1)


GAMES: dict[str, Callable[[Settings, int, str], Played]] = {"LQGAN": lqgan, "FCGAN": fcgan, "DCGAN": dcgan}


def _streams(seed: int) -> list[int]:
    return [int(state) for state in np.random.SeedSequence(seed).generate_state(5)]


# What the report shows


def draw(figure: Any, summary: Summary) -> None:
    """A panel a game: the score against the share of rows that a subset keeps."""
    panels = np.atleast_1d(figure.subplots(1, len(summary.settings["games"]), sharey=True))
    places = range(len(summary.columns))
    for axes, game in zip(panels, summary.settings["games"], strict=True):
        for index, method in enumerate(summary.settings["methods"]):
            curve = along(summary, summary.mean, SCORE, row(game, method))
            axes.plot(places, curve, "o-", color=f"C{index}", label=method, **LINE)
        axes.axhline(0, color="0.5", linewidth=0.8)
        axes.set_xticks(places, summary.columns)
        axes.set_xlabel("share of the rows that a subset keeps")
        axes.set_title(game, fontsize=10)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("linear datamodelling score, mean over seeds")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)


def findings(summary: Summary) -> list[str]:
    """By game: from which share on ITD's sums rank runs well, and the best of what looks at no game."""
    return [found for game in summary.settings["games"] for found in (_of_game(summary, game), _signal(summary, game))]


def _of_game(summary: Summary, game: str) -> str:
    means = {column: summary.mean(SCORE, row(game, "ITD"), column) for column in summary.columns}
    good = [column for column, mean in means.items() if mean is not None and mean >= 0.9]
    text = f"{game}: ITD's sums reach .9 at " + (
        f"{', '.join(good)} of the rows kept" if good else "none of the shares"
    )
    shown = [
        f"{method} {mean:.2f}"
        for method in summary.settings["methods"]
        if (mean := summary.mean(SCORE, row(game, method), summary.columns[0])) is not None
    ]
    return f"{text}; at {summary.columns[0]}: {', '.join(shown)}."


def _signal(summary: Summary, game: str) -> str:
    ratios = [found for column in summary.columns if (found := summary.mean(SPREAD, game, column)) is not None]
    if not ratios:
        return f"{game}: no seed came through."
    return f"{game}: the truth's spread over subsets is {min(ratios):.2g} times the noise floor or more."


LDS = Experiment(
    name="lds",
    title="The linear datamodelling score on GANs",
    source="not in the papers; Ilyas et al. 2022, Park et al. 2023 (TRAK)",
    description=(
        "For random subsets of the rows: Spearman's correlation between the metric's gain of the run on the subset, by "
        "retraining with the others' weights at 0 (denominators unchanged), and the sum of the scores of the rows left "
        "out. It is how the field measures attribution, at half of the rows kept; here of estimators and baselines on "
        "three GANs, and at larger shares: a score is linear in the rows that leave, the truth is not. Baselines are "
        "judged as if their harmfulness were what the metric gains. LQGAN and FCGAN by ALL, DCGAN (digits of 8 by 8 "
        "pixels) by the Fréchet distance of pixels."
    ),
    presets={
        "smoke": Preset(SMOKE, seeds=2, as_published=False),
        "standard": Preset(SETTINGS, seeds=3, as_published=False),
        "paper": Preset(SETTINGS, seeds=10, as_published=False),
    },
    quantities=(
        Quantity(SCORE, "Spearman's correlation over subsets: mean over seeds, (10 %) (90 %) percentiles", decimals=2),
        Quantity(
            SPREAD,
            "Standard deviation of the truth over subsets / noise floor (what rounding does to the metric): mean over "
            "seeds",
            decimals=None,
            rows=units,
        ),
    ),
    rows=rows,
    columns=columns,
    row_heading="Game and method",
    column_heading="kept",
    units=units,
    run_unit=run_unit,
    combine=combine,
    figures=(Drawing("figure", "Mean over seeds; 1: the sums put the runs into their true order.", draw),),
    findings=findings,
    unnamed=("smoke", "paper"),
    recheck={"games": ["LQGAN"]},
)
