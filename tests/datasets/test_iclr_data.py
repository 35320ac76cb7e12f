"""2D-Normal: drawn, and the authors' own rows."""

import math

import numpy as np
import pytest
import torch
from support.games import same_bits

from gan_influence.datasets import iclr_normal_2d, normal_2d

SHAPES = {"train": (10_000, 2), "valid": (1_000, 2), "test": (1_000, 2)}


def covariance(rows):
    return torch.cov(rows.T, correction=0)


def test_drawn_rows_have_the_stated_moments():
    n = 200_000
    rows = normal_2d(n, seed=0)
    assert rows.shape == (n, 2)
    assert rows.dtype == torch.float64
    assert rows.mean(0).tolist() == pytest.approx([1, 1], abs=5 / math.sqrt(n))
    (first, mixed), (_, second) = covariance(rows).tolist()
    assert [first, second] == pytest.approx([1, 1], abs=5 * math.sqrt(2 / n))
    assert mixed == pytest.approx(0.8, abs=5 * math.sqrt((1 + 0.8**2) / n))


def test_a_seed_fixes_the_drawn_rows_and_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert same_bits(normal_2d(20, seed=3), normal_2d(20, seed=3))
    assert not same_bits(normal_2d(20, seed=3), normal_2d(20, seed=4))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("n", [0, 2.0, True])
def test_drawing_refuses_fewer_than_one_row(n):
    with pytest.raises(ValueError, match=f"n must be a whole number >= 1, got {n}"):
        normal_2d(n, seed=0)


def rows(**changes):
    random = np.random.default_rng(0)
    return {name: random.normal(size=shape) for name, shape in SHAPES.items()} | changes


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv("GAN_INFLUENCE_DATA", raising=False)
    (tmp_path / "normal2d").mkdir()
    np.savez_compressed(tmp_path / "normal2d" / "set03.npz", **rows())
    return tmp_path


def test_the_three_arrays_are_read_as_they_are(folder):
    splits = iclr_normal_2d(3, folder)
    assert splits._fields == ("train", "validation", "test")
    for split, array in zip(splits, rows().values(), strict=True):
        assert same_bits(split, torch.from_numpy(array))


def test_the_variable_names_the_folder_unless_one_is_given(folder, monkeypatch):
    monkeypatch.setenv("GAN_INFLUENCE_DATA", str(folder))
    assert same_bits(iclr_normal_2d(3).test, torch.from_numpy(rows()["test"]))
    monkeypatch.setenv("GAN_INFLUENCE_DATA", str(folder / "elsewhere"))
    assert same_bits(iclr_normal_2d(3, folder).test, torch.from_numpy(rows()["test"]))


NOTHING_TO_DOWNLOAD = r".*normal_2d draws rows from the same distribution, with nothing to download"


@pytest.mark.parametrize("value", [None, ""])
def test_an_unset_variable_is_named_with_the_expected_file(folder, monkeypatch, value):
    if value is not None:
        monkeypatch.setenv("GAN_INFLUENCE_DATA", value)
    expected = r"GAN_INFLUENCE_DATA to the folder that holds normal2d.set03.npz, or give folder="
    with pytest.raises(FileNotFoundError, match=expected + NOTHING_TO_DOWNLOAD):
        iclr_normal_2d(3)


@pytest.mark.parametrize(
    ("missing", "repetition"),
    [("elsewhere", 3), ("", 4), ("empty/normal2d", 3)],
    ids=["folder", "file", "subfolder"],
)
def test_what_is_missing_is_named_with_the_expected_file(folder, missing, repetition):
    (folder / "empty").mkdir()
    given = folder / missing.removesuffix("/normal2d")
    expected = given / "normal2d" / f"set0{repetition}.npz"
    culprit = folder / missing if missing else expected
    with pytest.raises(FileNotFoundError, match=NOTHING_TO_DOWNLOAD) as caught:
        iclr_normal_2d(repetition, given)
    assert str(caught.value).startswith(f"{culprit} is not there: the rows are expected in {expected}, below folder=")
    assert "GAN_INFLUENCE_DATA" in str(caught.value)


@pytest.mark.parametrize("repetition", [-1, 7, 9, 2.0, True, "0"])
def test_only_the_seven_available_repetitions_are_offered(folder, repetition):
    with pytest.raises(ValueError, match=rf"from 0 to 6, got {repetition!r}: only 7 of the authors' ten sets"):
        iclr_normal_2d(repetition, folder)


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1000])


def flipped(path):
    content = bytearray(path.read_bytes())
    content[1000] ^= 1  # inside the first array
    path.write_bytes(content)


def with_a_broken_header(path):
    np.savez(path, **rows())
    path.write_bytes(path.read_bytes().replace(b"(10000, 2)", b"(10000, 2("))


def npy(path):
    with path.open("wb") as file:
        np.save(file, rows()["train"])


def rewritten(**changes):
    return lambda path: np.savez(path, **rows(**changes))


def without_validation(path):
    kept = rows()
    del kept["valid"]
    np.savez(path, **kept)


BAD_FILES = {
    "truncated": (truncated, r"set03.npz is damaged, or no .npz file .*: copy it anew"),
    "empty": (lambda path: path.write_bytes(b""), r"is damaged, or no .npz file"),
    "one-flipped-bit": (flipped, r"is damaged, or no .npz file"),
    "broken-header": (with_a_broken_header, r"is damaged, or no .npz file .*wrong checksum of train.npy"),
    "npy": (npy, r"is damaged, or no .npz file"),
    "pickled": (rewritten(valid=np.array([{}])), r"is damaged, or no .npz file .*allow_pickle=False"),
    "array-missing": (without_validation, r"set03.npz has no array 'valid', only 'train', 'test'"),
    "shape": (rewritten(test=np.zeros((1000, 3))), r"'test' must be float64 \(1000, 2\), got float64 \(1000, 3\)"),
    "rows": (rewritten(train=np.zeros((9999, 2))), r"'train' must be float64 \(10000, 2\), got float64 \(9999, 2\)"),
    "type": (rewritten(test=np.zeros((1000, 2), "f4")), r"'test' must be float64 .*got float32 \(1000, 2\)"),
    "nan": (rewritten(valid=np.full((1000, 2), math.nan)), r"set03.npz: 'valid' contains NaN or infinity"),
    "infinity": (rewritten(valid=np.full((1000, 2), math.inf)), r"'valid' contains NaN or infinity"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_refused(folder, spoil, message):
    spoil(folder / "normal2d" / "set03.npz")
    with pytest.raises(ValueError, match=message):
        iclr_normal_2d(3, folder)


@pytest.fixture(scope="module")
def authors():
    return [iclr_normal_2d(repetition) for repetition in range(7)]


@pytest.mark.data
def test_the_authors_rows_are_2d_normal(authors):
    for splits in authors:
        for split, n in zip(splits, (10_000, 1_000, 1_000), strict=True):
            assert split.shape == (n, 2)
            assert split.mean(0).tolist() == pytest.approx([1, 1], abs=5 / math.sqrt(n))
            (first, mixed), (_, second) = covariance(split).tolist()
            assert [first, second] == pytest.approx([1, 1], abs=5 * math.sqrt(2 / n))
            assert mixed == pytest.approx(0.8, abs=5 * math.sqrt(1.64 / n))


@pytest.mark.data
def test_each_of_the_authors_rows_occurs_once(authors):
    every = torch.cat([split for splits in authors for split in splits])
    assert len(every) == 7 * 12_000
    assert len(every.unique(dim=0)) == len(every)


@pytest.mark.data
def test_the_authors_splits_are_not_mixed_up(authors):
    means = [split.mean(0).tolist() for split in authors[0]]
    expected = [[1.00295041, 0.9993869], [1.00455001, 1.00789135], [1.00727667, 1.00528394]]  # by NumPy, of set00
    for mean, known in zip(means, expected, strict=True):
        assert mean == pytest.approx(known, abs=1e-8)
