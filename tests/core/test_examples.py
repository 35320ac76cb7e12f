"""The worked examples of docs/examples.md, each against the same training unrolled in plain torch."""

import re
from pathlib import Path

import pytest
import torch
from support.games import textbook_adam, textbook_sgd
from support.unrolled import cycle_of, gan, gradient_penalty, measured, unrolled
from torch.func import functional_call
from torch.nn.functional import softplus

import gan_influence as gi
from gan_influence import trees
from gan_influence.metrics.metric import metric_values
from gan_influence.step import states

TEXT = (Path(__file__).parents[2] / "docs" / "examples.md").read_text()
START, *SECTIONS = TEXT.split("\n## ")
BLOCKS = {part.splitlines()[0]: re.findall(r"```python\n(.*?)```", part, re.S) for part in SECTIONS}
BLOCKS = {title: blocks[0] for title, blocks in BLOCKS.items() if blocks}
STEPS = 70  # past the 64 from which steps are replayed


def smooth_sign(theta, gradient, memory, k):
    memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * gradient
    return theta - 0.01 * torch.tanh(10 * memory["m"])


NON_SATURATING = gan(lambda a: softplus(-a), softplus, lambda a: softplus(-a))
COSTS = {  # of the short forms; the others' are in the examples
    "WGAN-GP, five steps of the critic": gan(lambda a: -a, lambda a: a, lambda a: -a, gradient_penalty),
    "SNGAN, hinge loss": gan(lambda a: softplus(1 - a), lambda a: softplus(1 + a), lambda a: -a),
    "BatchNorm in the generator": NON_SATURATING,
    "LoRA on a frozen base": NON_SATURATING,
    "One's own optimiser": gan(lambda a: (a - 1) ** 2, lambda a: a**2, lambda a: (a - 1) ** 2),
}
ADAM = ("ACGAN", "BiGAN", "VAE", "Denoising diffusion on digits")
MOVES = {
    "WGAN-GP, five steps of the critic": textbook_adam(0.01, betas=(0.5, 0.9)),
    "A module with noise inputs, and dropout": textbook_sgd(0.1, momentum=0.5),
    "LoRA on a frozen base": {"generator": textbook_sgd(0.2), "discriminator": textbook_sgd(0.1)},
    "One's own optimiser": smooth_sign,
    **dict.fromkeys(ADAM, textbook_adam(0.01)),
}


def built(title):
    made = {}
    exec(re.search(r"```python\n(.*?)```", START, re.S)[1] + BLOCKS[title], made)
    return made


def trained(made):
    run = made["game"], made["data"], made["schedule"], STEPS, made["optimizer"]
    return gi.train(*run, update=made["update"], average_buffers="copy")


def plain(title, made, batches, weights):
    """The metric at the end of the run, in plain torch, and all parameters."""
    players, game = made["players"], made["game"]
    moves = MOVES.get(title, textbook_sgd(0.1))
    cost = COSTS.get(title) or (lambda players, batch: tuple(made["cost"](players, batch)))
    run = unrolled(
        players,
        cost,
        made["data"],
        batches,
        STEPS,
        moves if isinstance(moves, dict) else dict.fromkeys(players, moves),
        cycle_of(made["update"], list(players)),
        weights,
        l2={name: rate for name, rate in game.l2.items() if rate},
    )
    return measured(made["metric"], players, run.at, run.buffers), torch.cat(list(run.at.values()))


def test_every_example_is_at_most_25_lines():
    assert len(BLOCKS) == 12
    assert {title: len(block.splitlines()) for title, block in BLOCKS.items() if len(block.splitlines()) > 25} == {}


@pytest.mark.filterwarnings("ignore:the second derivative of a step of training:RuntimeWarning")  # of spectral_norm
@pytest.mark.parametrize("title", BLOCKS)
def test_itd_equals_unrolled_autograd_and_removals_equal_retraining(title):
    made = built(title)
    trace = trained(made)
    batches = [trace.batch(t) for t in range(STEPS)]
    weights = torch.ones(20, dtype=torch.float64, requires_grad=True)
    value, theta = plain(title, made, batches.__getitem__, weights)
    torch.testing.assert_close(trace.theta(), theta.detach(), rtol=1e-10, atol=1e-12)
    scores = -torch.autograd.grad(value, weights)[0]
    found = gi.itd(trace, made["metric"])
    assert scores.abs().max() > 1e-6
    assert float((found - scores).abs().max() / scores.abs().max()) < 1e-9

    removals = [[0], [3, 7]]
    truth = []
    for removed in removals:
        without = torch.ones(20, dtype=torch.float64)
        without[removed] = 0
        truth.append(float((plain(title, made, batches.__getitem__, without)[0] - value).detach()))
    torch.testing.assert_close(
        gi.counterfactual(trace, made["metric"], removals),
        torch.tensor(truth, dtype=torch.float64),
        rtol=1e-8,
        atol=1e-12,
    )
    assert trace.game.stacks, "its models should be one batch"


def test_going_on_from_torch_is_the_run_that_was_not_broken_off():
    """40 steps of plain torch and 50 of ours are 90 of plain torch: Adam, alternating, with an average."""
    made = built("LoRA on a frozen base")
    mlp, data, schedule = made["mlp"], torch.randn(20, 2).double(), made["schedule"]
    torch.manual_seed(5)
    generator, discriminator = mlp(3, 5, 2), mlp(2, 5, 1)
    of_g, of_d = (
        torch.optim.Adam(player.parameters(), lr=0.01, betas=(0.5, 0.9)) for player in (generator, discriminator)
    )
    average = {name: value.clone() for name, value in generator.state_dict().items()}
    schedule = gi.Minibatches(20, 8, latent_shape=(3,), seed=0, dtype=torch.float64)

    def torch_steps(steps):
        for t in steps:
            rows, latents = data[schedule(t).indices], schedule(t).latents
            of_d.zero_grad()
            fake = discriminator(generator(latents).detach())
            (softplus(-discriminator(rows)).mean() + softplus(fake).mean()).backward()
            of_d.step()
            of_g.zero_grad()
            softplus(-discriminator(generator(latents))).mean().backward()
            of_g.step()
            for name, value in generator.state_dict().items():
                average[name] = 0.9 * average[name] + 0.1 * value

    torch_steps(range(40))
    game = gi.Game(generator, discriminator, loss="non_saturating")
    start = gi.Start({"generator": of_g.state_dict(), "discriminator": of_d.state_dict()}, dict(average), step=40)
    optimizer = gi.Adam(0.01, betas=(0.5, 0.9))
    trace = gi.train(game, data, schedule, 50, optimizer, update="alternating", ema_decay=0.9, start=start)
    assert (trace.first, trace.steps) == (40, 90)
    torch_steps(range(40, 90))
    for name, module in (("generator", generator), ("discriminator", discriminator)):
        for key, value in trace.parameters()[name].items():
            torch.testing.assert_close(value, module.state_dict()[key], rtol=1e-9, atol=1e-12)
    for key, value in trace.parameters(averaged=True)["generator"].items():
        torch.testing.assert_close(value, average[key], rtol=1e-9, atol=1e-12)
    z = made["z"]
    again = functional_call(trace.module("generator"), {}, (z,))
    torch.testing.assert_close(again, generator(z), rtol=1e-9, atol=1e-12)
    assert gi.aid(trace, made["metric"], terms=5).shape == (20,)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (gi.Start(step=40), "no optimizer state of the generator"),
        (gi.Start({"critic": {}}, step=0), "names 'critic', but the players"),
        (gi.Start(average={"x": torch.zeros(1)}), "ema_decay averages nobody"),
    ],
    ids=["no-state", "unknown-player", "average-unasked"],
)
def test_a_start_that_does_not_fit_is_refused(start, message):
    made = built("One's own optimiser")
    with pytest.raises(ValueError, match=message):
        gi.train(made["game"], made["data"], made["schedule"], 5, gi.Adam(0.01), start=start)


LEFT_OUT = {"BatchNorm in the generator": 0.01, "SNGAN, hinge loss": 0.15}


@pytest.mark.filterwarnings("ignore:the second derivative of a step of training:RuntimeWarning")
@pytest.mark.parametrize("title", LEFT_OUT)
def test_what_scores_leave_out_of_buffers_is_as_much_as_is_stated(title):
    """Derivatives do not pass through running statistics and spectral_norm's vectors; differences of the weights do.

    As much as docs/architecture.md says, and not 0: then there would be nothing to state.
    """
    made, h = built(title), 1e-5
    trace = trained(made)
    weights = torch.ones(20, 20, dtype=torch.float64).repeat(2, 1)
    weights += h * torch.cat([torch.eye(20), -torch.eye(20)]).double()
    state = trees.mapped(lambda part: part.repeat(40, *[1] * part.ndim), trace.state(0))
    gi.counterfactual(trace, made["metric"], [[0]])  # finds out that its models are one batch
    *_, (_, end) = states(trace, state, weights, range(STEPS))
    ends = metric_values(made["metric"], trace.game, end.moving[:, 0], end.held)
    slopes = -(ends[:20] - ends[20:]) / (2 * h)
    scores = gi.itd(trace, made["metric"])
    off = float((scores - slopes).norm() / slopes.norm())
    print(f"{title}: off by {off:.3f}")
    assert 1e-4 < off < LEFT_OUT[title]
