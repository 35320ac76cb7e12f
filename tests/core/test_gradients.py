"""The gradient field and its adjoint products, against autograd and dense Jacobians of a hand-written field."""

import pytest
import torch
from support.games import (
    COSTS,
    GAMES,
    field,
    jacobian,
    lqgan,
    mlp,
    normal,
    relative_error,
    row_jacobian,
    value_function,
)

from gan_influence.adjoint import FieldGraph, linearise
from gan_influence.state import State
from gan_influence.updates import Updates

each_game = pytest.mark.parametrize("make", GAMES.values(), ids=GAMES)
each_loss = pytest.mark.parametrize("loss", COSTS)


def weights_of(problem):
    return torch.linspace(0.2, 1.4, len(problem.data), dtype=torch.float64)


def graph_of(problem, theta, weights):
    return FieldGraph(problem.game(), theta, problem.inputs(weights))


@each_game
@each_loss
def test_gradient_equals_autograd_of_hand_written_costs(make, loss):
    problem = make(loss=loss, l2=(0.3, 0.2))
    game, weights = problem.game(), weights_of(problem)
    v, _ = game.field(game.leaves(game.theta()), problem.inputs(weights))
    assert relative_error(torch.cat(v), field(problem, problem.start(), weights)) < 1e-13


@each_game
def test_minimax_field_is_the_gradient_of_v_of_eq_2(make):
    problem = make(l2=(0.3, 0.2))
    theta, weights = problem.start().requires_grad_(), weights_of(problem)
    (slope,) = torch.autograd.grad(value_function(problem, theta, weights), theta)
    ascent = torch.cat([torch.full((size,), sign) for size, sign in zip(problem.sizes, (1.0, -1.0), strict=True)])
    assert relative_error(graph_of(problem, theta.detach(), weights).value, ascent * slope) < 1e-13


@each_game
def test_zero_sum_jacobian_has_antisymmetric_off_diagonal_blocks(make):
    problem = make(l2=(0.3, 0.2))
    graph = graph_of(problem, problem.start(), problem.ones)
    columns = [graph.transpose_product(axis) for axis in torch.eye(sum(problem.sizes), dtype=torch.float64)]
    k = problem.sizes[0]
    J = torch.stack(columns)
    assert J[:k, k:].norm() > 1e-2
    assert relative_error(J[:k, k:], -J[k:, :k].T) < 1e-13


@each_game
@each_loss
def test_adjoint_products_equal_dense_jacobians(make, loss):
    problem = make(loss=loss, l2=(0.3, 0.2))
    theta, weights = problem.start(), weights_of(problem)
    c = normal(7, len(theta))
    J, rows = jacobian(problem, theta, weights), row_jacobian(problem, theta, weights)
    graph = graph_of(problem, theta, weights)
    assert relative_error(graph.transpose_product(c), J.T @ c) < 1e-13
    assert relative_error(graph.row_terms(c), rows.T @ c) < 1e-13
    product, terms = graph.both(c)
    assert relative_error(product, J.T @ c) < 1e-13
    assert relative_error(terms, rows.T @ c) < 1e-13


@each_game
def test_several_cotangents_share_one_graph(make):
    problem = make()
    theta, weights = problem.start(), weights_of(problem)
    cotangents = normal(8, 3, len(theta))
    product, terms = graph_of(problem, theta, weights).both(cotangents)
    assert relative_error(product, cotangents @ jacobian(problem, theta, weights)) < 1e-13
    assert relative_error(terms, cotangents @ row_jacobian(problem, theta, weights)) < 1e-13


@each_game
def test_a_stack_of_models_equals_each_model_alone(make):
    problem = make(l2=(0.3, 0.2))
    n, d = len(problem.data), sum(problem.sizes)
    thetas, weights, c = problem.start() + 0.1 * normal(9, 3, d), 1 + 0.3 * normal(10, 3, n), normal(11, 3, d)
    stack = graph_of(problem, thetas, weights)
    value, products, terms = stack.value, stack.transpose_product(c), stack.row_terms(c)
    for k in range(3):
        assert relative_error(value[k], field(problem, thetas[k], weights[k]).detach()) < 1e-13
        assert relative_error(products[k], jacobian(problem, thetas[k], weights[k]).T @ c[k]) < 1e-13
        assert relative_error(terms[k], row_jacobian(problem, thetas[k], weights[k]).T @ c[k]) < 1e-13


@pytest.mark.parametrize("damping", [0.0, 0.4])
@pytest.mark.parametrize("rates", [(0.1, 0.1), (0.1, 0.03)])
def test_pulling_back_a_step_multiplies_by_transposed_z(damping, rates):
    problem = mlp(rates=rates)
    trace = problem.train(0)
    theta, u = problem.start(), normal(12, 2, 1, sum(problem.sizes))
    state, inputs = State(theta[None], {}), problem.inputs(problem.ones)
    after, pull_back = linearise(problem.game(), trace.updates, trace.updates.phases(0), damping, state, inputs)
    assert relative_error(after.moving[0], theta - problem.eta * field(problem, theta, problem.ones)) < 1e-13
    before, terms = pull_back(u)
    eye = torch.eye(len(theta), dtype=torch.float64)
    Z = eye - problem.eta[:, None] * (jacobian(problem, theta, problem.ones) + damping * eye)
    assert relative_error(before[:, 0], u[:, 0] @ Z) < 1e-13
    assert relative_error(terms, -(u[:, 0] * problem.eta) @ row_jacobian(problem, theta, problem.ones)) < 1e-13


def test_updates_keep_generator_and_discriminator_rates_apart():
    problem = lqgan(rates=(0.2, 0.05))
    trace = problem.train(0)
    assert isinstance(trace.updates, Updates)
    assert trace.updates.learning_rates(trace.theta(), 0).tolist() == [0.2, 0.2, 0.05, 0.05]
