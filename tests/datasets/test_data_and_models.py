"""The papers' data and the LQGAN."""

import math

import pytest
import torch
from support.games import same_bits

import gan_influence as gi


def test_normal_data_have_the_stated_moments():
    rows = gi.datasets.normal_1d(200_000, mean=1.5, variance=4.0, seed=0)
    assert rows.shape == (200_000, 1)
    assert rows.dtype == torch.float64
    assert rows.mean() == pytest.approx(1.5, abs=5 * 2 / math.sqrt(200_000))
    assert rows.var() == pytest.approx(4.0, abs=5 * 4 * math.sqrt(2 / 200_000))


def test_normal_data_default_to_the_papers_n_1_1():
    assert same_bits(gi.datasets.normal_1d(9, seed=1), gi.datasets.normal_1d(9, 1.0, 1.0, seed=1))


def test_contaminated_data_mix_the_two_parts_as_stated():
    rows, harmful = gi.datasets.contaminated_normal_1d(200_000, seed=0)
    assert rows.shape == (200_000, 1)
    assert (rows.dtype, harmful.dtype) == (torch.float64, torch.bool)
    assert harmful.shape == (200_000,)
    assert harmful.double().mean() == pytest.approx(0.05, abs=5 * math.sqrt(0.05 * 0.95 / 200_000))
    for part, mean in ((rows[~harmful], 1.0), (rows[harmful], -2.0)):
        assert part.mean() == pytest.approx(mean, abs=5 * math.sqrt(0.5 / len(part)))
        assert part.var() == pytest.approx(0.5, abs=5 * 0.5 * math.sqrt(2 / len(part)))


@pytest.mark.parametrize(("share", "expected"), [(1.0, 0), (0.0, 50)])
def test_the_clean_share_can_be_all_or_nothing(share, expected):
    assert gi.datasets.contaminated_normal_1d(50, seed=0, clean_share=share)[1].sum() == expected


@pytest.mark.parametrize(
    "make", [gi.datasets.normal_1d, lambda n, seed: gi.datasets.contaminated_normal_1d(n, seed=seed)[0]]
)
def test_a_seed_fixes_the_data_and_the_global_generator_is_left_alone(make):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert same_bits(make(20, seed=3), make(20, seed=3))
    assert not same_bits(make(20, seed=3), make(20, seed=4))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gi.datasets.normal_1d(0, seed=0), r"n must be a whole number >= 1, got 0"),
        (lambda: gi.datasets.normal_1d(2.0, seed=0), r"n must be a whole number >= 1, got 2.0"),
        (lambda: gi.datasets.normal_1d(5, variance=-1.0, seed=0), r"variance must be .* >= 0, got -1.0"),
        (lambda: gi.datasets.contaminated_normal_1d(5, seed=0, harmful=(0, math.nan)), r"variance .* got nan"),
        (lambda: gi.datasets.contaminated_normal_1d(5, seed=0, clean_share=1.5), r"clean_share .*\[0, 1\], got 1.5"),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_lqgan_is_the_papers_formula_under_the_contracts_names():
    generator, discriminator = gi.models.lqgan(scale=2.0, shift=3.0, quadratic=-0.5, linear=0.25)
    assert [name for name, _ in generator.named_parameters()] == ["scale", "shift"]
    assert [name for name, _ in discriminator.named_parameters()] == ["quadratic", "linear"]
    assert {p.dtype for p in (*generator.parameters(), *discriminator.parameters())} == {torch.float64}
    rows = torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    torch.testing.assert_close(generator(rows), 2 * rows + 3)
    torch.testing.assert_close(discriminator(rows), -0.5 * rows**2 + 0.25 * rows)


def values(players):
    return torch.stack([p.detach() for player in players for p in player.parameters()])


def test_lqgans_seed_fixes_what_is_not_given():
    assert same_bits(values(gi.models.lqgan(seed=5)), values(gi.models.lqgan(seed=5)))
    assert not same_bits(values(gi.models.lqgan(seed=5)), values(gi.models.lqgan(seed=6)))
    given = values(gi.models.lqgan(shift=0.0, seed=5))
    assert given[1] == 0
    assert same_bits(given[[0, 2, 3]], values(gi.models.lqgan(seed=5))[[0, 2, 3]])


def test_lqgans_default_draws_come_from_torchs_generator():
    torch.manual_seed(3)
    first = values(gi.models.lqgan())
    torch.manual_seed(3)
    assert same_bits(values(gi.models.lqgan()), first)
    assert not same_bits(values(gi.models.lqgan()), first)


def test_lqgan_accepts_rows_without_a_feature_dimension():
    data, latents = gi.datasets.normal_1d(10, seed=0)[:, 0], gi.datasets.normal_1d(8, seed=1)[:, 0]
    game = gi.Game(*gi.models.lqgan(seed=0))
    flat = gi.train(game, data, gi.FullBatch(latents), 5, gi.SGD(0.05))
    column = gi.train(game, data[:, None], gi.FullBatch(latents[:, None]), 5, gi.SGD(0.05))
    torch.testing.assert_close(flat.states, column.states)
