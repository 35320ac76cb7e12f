"""``bench.peers``: other libraries' influence functions are those of ``gi.aid``, or are said not to be there."""

import pytest
import torch
from support.games import relative_error

import gan_influence as gi
from bench import peers


@pytest.fixture(scope="module")
def job():
    return peers.job(40, 5, "digits")


def losses(theta, x, y):
    logits = x @ theta[:-1] + theta[-1]
    return torch.nn.functional.softplus(logits) - y * logits


def slopes(job):
    """Of the training rows, and of the test points."""
    of = torch.autograd.functional.jacobian
    return tuple(of(lambda at, pairs=pairs: losses(at, *pairs), job.trace.theta()) for pairs in (job.train, job.test))


def test_aid_is_the_influence_function_with_the_whole_hessian(job):
    theta, (rows, points) = job.trace.theta(), slopes(job)
    hessian = torch.autograd.functional.hessian(lambda at: losses(at, *job.train).mean(), theta)
    damped = hessian + peers.L2 * torch.eye(len(theta)).double()
    assert relative_error(peers.aid(job), points @ torch.linalg.solve(damped, rows.T) / job.size) < 1e-9


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "difference"), [("captum", 1e-7), ("dattri", 1e-6)])
def test_a_peer_with_the_whole_hessian_agrees(job, name, difference):
    package, scores = peers.PEERS[name]
    pytest.importorskip(package)
    found = peers.agreement(scores(job), peers.aid(job))
    assert found["tau"] > 1 - 1e-3  # dattri's are of single precision
    assert found["difference"] <= difference


@pytest.mark.filterwarnings("ignore")
def test_kronfluences_scores_have_ekfacs_diagonal_in_place_of_the_hessian(job):
    pytest.importorskip("kronfluence")
    rows, points = slopes(job)
    x = torch.cat([job.train[0], torch.ones(job.size, 1).double()], dim=1)
    basis = torch.linalg.eigh(x.T @ x / job.size).eigenvectors
    inverse = 1 / ((rows @ basis).square().mean(0) + peers.L2)
    expected = (points @ basis * inverse) @ (rows @ basis).T / job.size
    assert relative_error(peers.kronfluence(job, empirical=True), expected) < 1e-2
    sampled = peers.kronfluence(job)
    assert relative_error(sampled, expected) > 1e-2
    assert peers.agreement(sampled, expected)["tau"] > 0.5


def test_agreement_is_tau_and_the_largest_difference():
    ours = torch.tensor([[1.0, 2.0, 4.0], [3.0, -1.0, 0.0]]).double()
    theirs = torch.tensor([[1.0, 2.0, 4.4], [3.0, 0.0, -1.0]]).double()
    found = peers.agreement(theirs, ours)
    assert found["tau"] == pytest.approx((1 + 1 / 3) / 2)
    assert found["difference"] == pytest.approx(1 / 3)


def test_what_is_not_installed_is_said(job, monkeypatch):
    def scaled(job):
        return 2 * peers.aid(job)

    monkeypatch.setattr(peers, "PEERS", {"twice": ("torch", scaled), "other": ("no-such-package", scaled)})
    ours, twice, other = peers.compare(job, 1)
    assert (ours["name"], ours["version"]) == ("gi.aid", gi.__version__)
    assert twice["tau"] == 1
    assert twice["difference"] == pytest.approx(1)
    assert "seconds" in twice
    assert other == {"name": "other", "version": None}
    assert peers.shown(other).split(None, 1) == ["other", "not installed"]
