"""AID restricted to some of the parameters: against the block of a dense matrix, solved."""

import pytest
import torch
from support.games import lqgan, normal, relative_error
from torch import nn

import gan_influence as gi

N, STEPS, L2 = 12, 9, 0.2
INPUTS, TEST = normal(500, N, 3), normal(501, 7, 3)
TARGETS, TEST_TARGETS = INPUTS.argmax(1), TEST.argmin(1)
NAMES = ["0.weight", "0.bias", "2.weight", "2.bias"]
SIZES = [6, 2, 6, 3]
PLACES = dict(zip(NAMES, torch.arange(sum(SIZES)).split(SIZES), strict=True))
SUBSETS = {
    "model.2.*": NAMES[2:],
    "model.*.bias": ["0.bias", "2.bias"],
    ("model.0.weight", "*.2.b*"): ["0.weight", "2.bias"],
    "*": NAMES,
}
each_subset = pytest.mark.parametrize(("patterns", "names"), SUBSETS.items(), ids=map(str, SUBSETS))


def outputs(theta, x):
    first, b1, second, b2 = theta.split(SIZES)
    return torch.tanh(x @ first.view(2, 3).T + b1) @ second.view(3, 2).T + b2


def costs(theta, x=INPUTS, y=TARGETS):
    return outputs(theta, x).logsumexp(1) - outputs(theta, x)[torch.arange(len(y)), y]


def trained(schedule=None):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 3)).double()
    game = gi.Game(None, model, loss="cross_entropy", l2=L2)
    return gi.train(game, (INPUTS, TARGETS), schedule or gi.FullBatch(), STEPS, gi.SGD(0.3))


def metric(each=False):
    return gi.metrics.AverageLoss(TEST, TEST_TARGETS, each=each)


def where(names):
    return torch.cat([PLACES[name] for name in names])


def hessian(theta, rows=slice(None)):
    dense = torch.autograd.functional.hessian(lambda at: costs(at)[rows].mean(), theta)
    return dense + L2 * torch.eye(len(theta)).double()


def gauss_newton(theta):
    slopes = torch.autograd.functional.jacobian(lambda at: outputs(at, INPUTS), theta)
    p = outputs(theta, INPUTS).softmax(1)
    of_cost = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return torch.einsum("nki,nkl,nlj->ij", slopes, of_cost, slopes) / N + L2 * torch.eye(len(theta)).double()


def block_scores(theta, names, matrix, damping=0.0):
    """``(1/N) grad_S E^T (A_SS + gamma I)^-1 grad_S l_j`` of each test point."""
    S = where(names)
    rows = torch.autograd.functional.jacobian(costs, theta)[:, S]
    points = torch.autograd.functional.jacobian(lambda at: costs(at, TEST, TEST_TARGETS), theta)[:, S]
    block = matrix[S][:, S] + damping * torch.eye(len(S)).double()
    return points @ torch.linalg.solve(block, rows.T) / N


@each_subset
@pytest.mark.parametrize("solver", ["gmres", "cg", "normal_equations", "neumann"])
def test_the_scores_are_those_of_the_dense_block(patterns, names, solver):
    trace = trained()
    theta, damping = trace.theta(), 0.4
    options = {"terms": 2000, "scale": 0.5} if solver == "neumann" else {}
    scores = gi.aid(trace, metric(), damping=damping, solver=solver, parameters=patterns, **options)
    expected = block_scores(theta, names, hessian(theta), damping)
    assert relative_error(scores, expected.mean(0)) < 1e-8
    assert (relative_error(scores, gi.aid(trace, metric(), damping=damping, solver="gmres")) > 0.01) == (
        patterns != "*"
    )
    each = gi.aid(trace, metric(each=True), damping=damping, solver=solver, parameters=patterns, **options)
    assert relative_error(each, expected) < 1e-8


def test_gauss_newtons_block_is_the_dense_one():
    trace = trained()
    scores = gi.aid(trace, metric(each=True), solver="cg", curvature="gauss_newton", parameters="model.0.*")
    expected = block_scores(trace.theta(), NAMES[:2], gauss_newton(trace.theta()))
    assert relative_error(scores, expected) < 1e-9


def test_a_step_of_the_series_takes_the_block_of_its_own_batch():
    trace = trained(gi.Minibatches(N, 5, seed=4))
    theta, S = trace.theta(), where(NAMES[2:])
    test = torch.autograd.functional.jacobian(lambda at: costs(at, TEST, TEST_TARGETS).mean(), theta)[S]
    term, total = test, test
    for t in range(STEPS, STEPS + 5):
        term = term - 0.3 * hessian(theta, trace.schedule(t).indices)[S][:, S] @ term
        total = total + term
    rows = torch.autograd.functional.jacobian(costs, theta)[:, S]
    assert relative_error(gi.aid(trace, metric(), 6, parameters="model.2.*"), 0.3 / N * rows @ total) < 1e-11


def test_a_series_ends_within_its_tolerance_of_the_blocks_limit():
    trace = trained()
    scores = gi.aid(trace, metric(), 5000, scale=0.5, tolerance=1e-9, parameters="model.2.*")
    assert relative_error(scores, block_scores(trace.theta(), NAMES[2:], hessian(trace.theta())).mean(0)) < 1e-8


def test_stopping_times_have_blocks_of_their_own():
    trace = trained()
    for one in (metric(), [metric(), metric()]):
        scores = gi.aid(trace, one, solver="cg", at=[4, STEPS], parameters="model.2.*")
        for k, stop in enumerate((4, STEPS)):
            theta = trace.theta(stop)
            expected = block_scores(theta, NAMES[2:], hessian(theta)).mean(0)
            assert relative_error(scores[..., k, :], expected.expand(scores[..., k, :].shape)) < 1e-9


def test_newtons_steps_move_the_chosen_parameters_to_their_equilibrium_and_no_others():
    trace = trained()
    theta, S = trace.theta(), where(NAMES[2:])
    for _ in range(8):
        slope = torch.autograd.functional.jacobian(lambda at: costs(at).mean() + L2 / 2 * at @ at, theta)
        theta = theta.index_add(0, S, -torch.linalg.solve(hessian(theta)[S][:, S], slope[S]))
    scores = gi.aid(trace, metric(), solver="gmres", newton=8, parameters="model.2.*")
    assert relative_error(scores, block_scores(theta, NAMES[2:], hessian(theta)).mean(0)) < 1e-8
    assert relative_error(scores, gi.aid(trace, metric(), solver="gmres", parameters="model.2.*")) > 0.01


def test_of_a_gan_the_block_is_that_of_its_jacobian_which_is_not_symmetric():
    problem = lqgan(l2=(0.3, 0.4))
    trace = problem.train(5)
    theta, S = trace.theta().requires_grad_(), torch.tensor([1, 2, 3])
    weights = torch.ones(trace.size).double().requires_grad_()

    def field(at, weights):
        inputs = trace.inputs(0)._replace(weights=weights)
        losses, _ = trace.game.losses(trace.game.split(at), inputs)
        names = list(losses)
        slopes = [torch.autograd.grad(losses[name], at, create_graph=True)[0] for name in names]
        sizes = trace.game.sizes
        return torch.cat([slopes[0][: sizes[0]], slopes[1][sizes[0] :]])

    v = field(theta, weights)
    J = torch.stack([torch.autograd.grad(one, theta, retain_graph=True)[0] for one in v])
    of_rows = torch.stack([torch.autograd.grad(one, weights, retain_graph=True)[0] for one in v])
    (slope,) = torch.autograd.grad(problem.metric().value(gi.Players(trace.game, theta)), theta)
    expected = torch.linalg.solve(J[S][:, S].T, slope[S]) @ of_rows[S]
    scores = gi.aid(trace, problem.metric(), solver="gmres", parameters=["generator.shift", "discriminator.*"])
    assert relative_error(scores, expected) < 1e-9


@pytest.mark.parametrize(
    ("patterns", "error", "message"),
    [
        ("model.4.*", ValueError, r"'model\.4\.\*' of parameters matches none of them: they are model\.0\.weight, mod"),
        (["model.0.*", "2.bias"], ValueError, r"'2\.bias' of parameters matches none of them"),
        ([], ValueError, r"parameters names none: they are model\.0\.weight"),
        (["model.0.*", 2], TypeError, r'must be a pattern of names such as "model\.4\.\*", or several, got'),
        (3, TypeError, r"must be a pattern of names .*, got 3"),
    ],
)
def test_patterns_that_name_no_parameter_are_refused(patterns, error, message):
    with pytest.raises(error, match=message):
        gi.aid(trained(), metric(), parameters=patterns)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("generator.*", r"are of no player whose cost looks at rows, discriminator: held"),
        ("discriminator.*", r"no metric depends on parameters='discriminator\.\*', so that all scores would be 0"),
    ],
)
def test_parameters_through_which_nothing_passes_are_refused(pattern, message):
    problem = lqgan()
    with pytest.raises(ValueError, match=message):
        gi.aid(problem.train(2), problem.metric(), solver="gmres", parameters=pattern)
