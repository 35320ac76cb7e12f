"""What a trace answers."""

import pytest
import torch
from support.games import lqgan, mlp, same_bits, unrolled

import gan_influence as gi


def test_theta_after_every_step_is_that_of_the_hand_written_loop():
    problem = mlp()
    trace = problem.train(4)
    for step, theta in enumerate(unrolled(problem, problem.ones, 4)):
        torch.testing.assert_close(trace.theta(step), theta.detach(), rtol=1e-13, atol=1e-14)
    assert trace.steps == 4
    assert trace.first == 0


def test_parameters_go_by_the_modules_own_names_and_shapes():
    problem = mlp()
    parameters = problem.train(3).parameters(0)
    for role in ("generator", "discriminator"):
        expected = dict(getattr(problem, role).named_parameters())
        assert list(parameters[role]) == list(expected)
        assert all(torch.equal(parameters[role][name], expected[name]) for name in expected)


def test_negative_steps_count_from_the_end():
    trace = lqgan().train(3)
    assert trace.parameters()["generator"]["scale"] == trace.parameters(3)["generator"]["scale"]
    assert trace.parameters(-1)["generator"]["scale"] == trace.parameters(3)["generator"]["scale"]
    assert same_bits(trace.theta(-4), trace.theta(0))
    assert not same_bits(trace.theta(-2), trace.theta(-1))


@pytest.mark.parametrize("step", [4, -5])
def test_a_step_outside_the_run_is_an_error(step):
    with pytest.raises(IndexError, match=r"-?\d+ is not in this trace, which holds steps 0 to 3"):
        lqgan().train(3).parameters(step)


def test_a_window_holds_its_own_steps_only():
    window = gi.retrain(lqgan().train(6), [1], last=2)
    assert same_bits(window.theta(-3), window.theta(4))
    for step in (3, -4):
        with pytest.raises(IndexError, match="holds steps 4 to 6"):
            window.theta(step)


def test_changing_the_parameters_that_a_trace_returned_changes_nothing():
    trace = lqgan().train(3)
    before = trace.theta().clone()
    trace.parameters()["generator"]["scale"].fill_(9.0)
    assert same_bits(trace.theta(), before)


def test_no_steps_hold_the_start():
    problem = lqgan()
    trace = problem.train(0)
    assert same_bits(trace.theta(), problem.start())
    assert gi.itd(trace, problem.metric()).eq(0).all()
    assert gi.counterfactual(trace, problem.metric(), [[1]]).eq(0).all()


def test_players_generate_and_discriminate_at_a_step():
    problem = mlp()
    trace = problem.train(3)
    phi, psi = trace.theta(2).split(problem.sizes)
    torch.testing.assert_close(trace.players(2).generate(problem.fresh), problem.generate(phi, problem.fresh))
    logits = trace.players(2).discriminate(problem.reference)
    torch.testing.assert_close(logits, problem.discriminate(psi, problem.reference))


def test_its_repr_says_what_was_run():
    trace = gi.retrain(lqgan().train(6), [1, 2], last=2)
    assert repr(trace) == "Trace(steps=6, first=4, rows=24, parameters=4, removed=2)"


def test_the_device_can_be_named():
    problem = lqgan()
    assert same_bits(problem.train(3, device="cpu").states, problem.train(3).states)


def test_progress_bars_do_not_change_results(capsys):
    problem = lqgan()
    trace = problem.train(3, progress=True)
    assert same_bits(gi.itd(trace, problem.metric(), progress=True), gi.itd(trace, problem.metric()))
    gi.counterfactual(trace, problem.metric(), [[1]], progress=True)
    gi.aid(trace, problem.metric(), terms=4, progress=True)
    shown = capsys.readouterr().err
    assert all(name in shown for name in ("training", "itd", "retraining", "aid"))
