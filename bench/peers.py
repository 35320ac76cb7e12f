"""Influence functions of other libraries beside ``gi.aid``: ``python -m bench.peers``. Agreement and time in one run.

Logistic regression with L2 on 200 rows of Adult, or of digits where there is no Adult; every row's influence on the
loss of each of 20 others, ``grad l_test^T (H + l2 I)^-1 grad l_row / N``. captum and dattri solve this with the whole
Hessian; kronfluence replaces it by EK-FAC, eigenvalue-corrected Kronecker factors of the Fisher matrix, of sampled
labels or of those of the data. A library that is not there is named so: ``pip install "gan-influence[peers]"``.
torch-influence is not on the package index.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import kendalltau
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader, TensorDataset

import gan_influence as gi
from reports.shared.provenance import program, provenance
from reports.shared.store import ensure_writable, write_json

__all__ = ["PEERS", "Job", "compare", "job"]

ROWS, POINTS, STEPS, L2 = 200, 20, 300, 0.01
ROUNDS = {"smoke": 1, "standard": 3}


@dataclass(frozen=True)
class Job:
    """A trained model, and the pairs of its training and of the test points.

    Attributes:
        data: the data's name.
        trace: of the run.
        train, test: inputs and labels.
    """

    data: str
    trace: gi.Trace
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @property
    def model(self) -> nn.Module:
        return self.trace.module("model")

    @property
    def size(self) -> int:
        return len(self.train[1])


def job(rows: int = ROWS, points: int = POINTS, data: str | None = None) -> Job:
    """The job on so many rows of ``adult`` or ``digits``, by default Adult's where its files are."""
    inputs, labels, data = _table(data)
    chosen = np.random.default_rng(0).permutation(len(labels))[: rows + points]
    x, y = inputs[chosen].double(), labels[chosen]
    x = x[:, x[:rows].std(0) > 0]
    x = (x - x[:rows].mean(0)) / x[:rows].std(0)
    model = gi.models.logistic_regression(x.shape[1], seed=0)
    game, train = gi.Game(None, model, loss="binary_cross_entropy", l2=L2), (x[:rows], y[:rows])
    return Job(data, gi.train(game, train, gi.FullBatch(), STEPS, gi.SGD(0.1)), train, (x[rows:], y[rows:]))


def _table(data: str | None) -> tuple[Tensor, Tensor, str]:
    if data != "digits":
        try:
            return *gi.datasets.adult(), "adult"
        except FileNotFoundError:
            if data == "adult":
                raise
    images, digits = gi.datasets.digits()
    kept = (digits == 1) | (digits == 8)  # which are hard to tell apart there
    return images[kept].flatten(1), (digits[kept] == 8).long(), "digits"


def _losses(logits: Tensor, labels: Tensor) -> Float[Tensor, " n"]:
    return binary_cross_entropy_with_logits(logits.flatten(), labels.flatten().to(logits.dtype), reduction="none")


def aid(job: Job) -> Float[Tensor, "points N"]:
    return gi.aid(job.trace, gi.metrics.AverageLoss(*job.test, each=True), solver="cg")


def captum(job: Job) -> Float[Tensor, "points N"]:
    from captum.influence import NaiveInfluenceFunction

    influence = NaiveInfluenceFunction(
        job.model,
        TensorDataset(*job.train),
        checkpoint="",
        checkpoints_load_func=lambda model, path: 1.0,
        loss_fn=_losses,
        batch_size=job.size,
        projection_dim=10**6,  # the whole inverse
        hessian_reg=job.size * L2,  # captum's Hessian is of the sum over the rows
        hessian_inverse_tol=0.0,
    )
    return influence.influence(job.test)


def dattri(job: Job) -> Float[Tensor, "points N"]:
    from dattri.algorithm.influence_function import IFAttributorExplicit
    from dattri.task import AttributionTask

    model = job.model

    def loss(parameters: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        return _losses(torch.func.functional_call(model, parameters, data[0]), data[1]).mean()

    task = AttributionTask(loss_func=loss, model=model, checkpoints=model.state_dict())
    attributor = IFAttributorExplicit(task=task, regularization=L2)
    train, test = (DataLoader(TensorDataset(*pairs), batch_size=len(pairs[1])) for pairs in (job.train, job.test))
    attributor.cache(train)
    return attributor.attribute(train, test).T / job.size


def kronfluence(job: Job, empirical: bool = False) -> Float[Tensor, "points N"]:
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class Logistic(Task):
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            logits, labels = model(batch[0]), batch[1]
            if sample:
                labels = torch.bernoulli(logits.detach().sigmoid()).flatten()
            return _losses(logits, labels).sum()

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

    torch.manual_seed(0)
    task = Logistic()
    train, test = (TensorDataset(pairs[0].float(), pairs[1]) for pairs in (job.train, job.test))
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer(
            "peers",
            prepare_model(nn.Sequential(job.model.float()), task),
            task,
            cpu=True,
            disable_tqdm=True,
            log_level=40,
            output_dir=folder,
        )
        arguments = FactorArguments(strategy="ekfac", use_empirical_fisher=empirical)
        analyzer.fit_all_factors("factors", train, per_device_batch_size=job.size, factor_args=arguments)
        analyzer.compute_pairwise_scores(
            "scores",
            "factors",
            query_dataset=test,
            train_dataset=train,
            per_device_query_batch_size=len(job.test[1]),
            per_device_train_batch_size=job.size,
            score_args=ScoreArguments(damping_factor=L2),
        )
        scores = analyzer.load_pairwise_scores("scores")["all_modules"]
    return scores.double() / job.size


PEERS: dict[str, tuple[str, Callable[[Job], Tensor]]] = {  # by what is shown: the package, and its scores
    "captum": ("captum", captum),
    "dattri": ("dattri", dattri),
    "kronfluence, EK-FAC": ("kronfluence", kronfluence),
    "kronfluence, EK-FAC of the data's labels": ("kronfluence", lambda job: kronfluence(job, empirical=True)),
}


def compare(job: Job, rounds: int) -> list[dict[str, Any]]:
    """``gi.aid`` and each peer in turn, so many rounds: versions, agreement with ``gi.aid``, median seconds."""
    calls = {"gi.aid": aid} | {name: call for name, (package, call) in PEERS.items() if _version(package)}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    found = {}
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # of their dependencies, and their progress
        warnings.simplefilter("ignore")
        for _ in range(rounds):
            for name, call in calls.items():
                begun = time.perf_counter()
                found[name] = call(job)
                seconds[name].append(time.perf_counter() - begun)
    results: list[dict[str, Any]] = [
        {"name": "gi.aid", "version": gi.__version__, "seconds": _median(seconds["gi.aid"])}
    ]
    for name, (package, _) in PEERS.items():
        row: dict[str, Any] = {"name": name, "version": _version(package)}
        if name in found:
            row |= {**agreement(found[name], found["gi.aid"]), "seconds": _median(seconds[name])}
        results.append(row)
    return results


def agreement(theirs: Float[Tensor, "points N"], ours: Float[Tensor, "points N"]) -> dict[str, float]:
    """Kendall's tau in the mean over points; the largest difference relative to the point's largest score."""
    taus = [kendalltau(a, b).statistic for a, b in zip(theirs.detach(), ours, strict=True)]
    off = (theirs.detach() - ours).abs().amax(1) / ours.abs().amax(1)
    return {"tau": float(np.mean(taus)), "difference": float(off.max())}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _median(seconds: list[float]) -> float:
    return float(np.median(seconds))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers",
        description="Compare gi.aid with the influence functions of other libraries, where they are installed: "
        "agreement and time. Writes peers.json.",
    )
    parser.add_argument("--preset", choices=tuple(ROUNDS), default="standard", help="times: of 1 round, or of 3")
    parser.add_argument("--data", choices=("adult", "digits"), help="by default Adult, where its files are")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), metavar="DIR", help="where to write")
    arguments = parser.parse_args()
    ensure_writable(arguments.out)
    of = job(data=arguments.data)
    print(
        f"logistic regression on {of.data}: {of.size} rows, {of.trace.game.size} parameters, {len(of.test[1])} points"
    )
    print(f"{'':42} {'version':>9} {'tau':>7} {'difference':>11} {'seconds':>8}")
    results = compare(of, ROUNDS[arguments.preset])
    for row in results:
        print(shown(row))
    print(f"{'torch-influence':42} not on the package index")
    record = provenance(program("bench.peers"), "cpu")
    write_json(arguments.out / "peers.json", {"provenance": record, "data": of.data, "peers": results})
    return 0


def shown(row: dict[str, Any]) -> str:
    """A line of the table."""
    if row["version"] is None:
        return f"{row['name']:42} not installed"
    agrees = f"{row['tau']:7.3f} {row['difference']:11.1e}" if "tau" in row else f"{'':7} {'':11}"
    return f"{row['name']:42} {row['version']:>9} {agrees} {row['seconds']:8.3f}"


if __name__ == "__main__":
    sys.exit(main())
