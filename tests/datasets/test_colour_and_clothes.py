"""CIFAR-10 and FashionMNIST, from files like theirs that are made here."""

import gzip
import struct

import numpy as np
import pytest
import torch
from support.games import same_bits

from gan_influence.datasets import CIFAR10_NAMES, as_images, cifar10, fashion_mnist

RANDOM = np.random.default_rng(0)
PIXELS, LABELS = RANDOM.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8), np.array([3, 5, 0, 9, 3, 5], dtype=np.uint8)
CLOTHES, KINDS = RANDOM.integers(0, 256, (4, 28, 28), dtype=np.uint8), np.array([0, 9, 2, 2], dtype=np.uint8)


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch, request):
    if "data" not in request.keywords:
        monkeypatch.delenv("GAN_INFLUENCE_DATA", raising=False)


@pytest.fixture
def folder(tmp_path):
    for name in ("cifar10", "fashion-mnist"):
        (tmp_path / name).mkdir()
    np.savez(tmp_path / "cifar10" / "train.npz", images=PIXELS, labels=LABELS, index=np.arange(6))
    header = struct.pack(">4I", 0x803, *CLOTHES.shape)
    clothes = tmp_path / "fashion-mnist"
    (clothes / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + CLOTHES.tobytes()))
    (clothes / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, 4) + KINDS.tobytes())
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cifar10s_levels_become_numbers_from_minus_one_to_one(folder, dtype):
    found = cifar10("train", folder, dtype=dtype)
    expected = PIXELS.astype(np.float64).transpose(0, 3, 1, 2) / 127.5 - 1
    assert same_bits(found.images, torch.from_numpy(expected).to(dtype))
    assert found.labels.tolist() == LABELS.tolist()
    assert found.labels.dtype == torch.int64


def test_cifar10s_levels_can_stay_as_they_are_until_they_are_used(folder, monkeypatch):
    monkeypatch.setenv("GAN_INFLUENCE_DATA", str(folder))
    levels = cifar10("train", dtype=torch.uint8).images
    assert np.array_equal(levels.numpy(), PIXELS.transpose(0, 3, 1, 2))
    assert same_bits(as_images(levels, torch.float32), cifar10("train").images)


def test_images_that_are_numbers_already_are_left_alone():
    images = torch.rand(2, 3)
    assert as_images(images, torch.float32) is images


def test_the_names_belong_to_the_labels():
    assert (CIFAR10_NAMES[3], CIFAR10_NAMES[5], len(CIFAR10_NAMES)) == ("cat", "dog", 10)


def test_fashion_mnist_is_read_as_written(folder):
    found = fashion_mnist("test", folder, dtype=torch.float64)
    assert same_bits(found.images, torch.from_numpy(CLOTHES.astype(np.float64) / 127.5 - 1)[:, None])
    assert found.labels.tolist() == KINDS.tolist()


@pytest.mark.data
def test_the_real_files_hold_what_they_say():
    images, labels = cifar10("test")
    assert images.shape == (len(labels), 3, 32, 32)
    assert fashion_mnist("train").images.shape[1:] == (1, 28, 28)


def without(name):
    return {key: value for key, value in {"images": PIXELS, "labels": LABELS}.items() if key != name}


DAMAGED = {
    "no-archive": (b"no archive", r"train.npz is damaged, or no .npz file"),
    "cut": ("cut", r"train.npz is damaged, or no .npz file"),
    "no-images": (without("images"), r"train.npz holds no array 'images'"),
    "no-labels": (without("labels"), r"train.npz holds no array 'labels'"),
    "grey": ({"images": PIXELS[..., 0], "labels": LABELS}, r"images are uint8 of shape \(6, 32, 32\), expected uint8"),
    "numbers": ({"images": PIXELS / 255, "labels": LABELS}, r"images are float64 of shape \(6, 32, 32, 3\)"),
    "lengths": ({"images": PIXELS, "labels": LABELS[:4]}, r"labels are uint8 of shape \(4,\), expected \(6,\)"),
    "label": ({"images": PIXELS, "labels": LABELS + 5}, r"labels\[1\] is 10, but CIFAR-10's labels are 0 to 9"),
    "objects": ({"images": np.array([None]), "labels": LABELS}, r"train.npz is damaged, or no .npz file"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named(folder, content, message):
    path = folder / "cifar10" / "train.npz"
    if isinstance(content, dict):
        np.savez(path, **content)
    else:
        path.write_bytes(path.read_bytes()[:500] if content == "cut" else content)
    with pytest.raises(ValueError, match=message):
        cifar10("train", folder)


@pytest.mark.parametrize("read", [cifar10, fashion_mnist])
def test_what_is_missing_is_named(read, folder, tmp_path):
    source = "cs.toronto.edu/~kriz/cifar.html" if read is cifar10 else "github.com/zalandoresearch/fashion-mnist"
    with pytest.raises(FileNotFoundError, match=rf"variable GAN_INFLUENCE_DATA names: name one; .* had from {source}"):
        read("train")
    with pytest.raises(FileNotFoundError, match=rf"nowhere is not there: the images are expected in .*{source}"):
        read("train", tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"split must be 'train' or 'test', got 'validation'"):
        read("validation", folder)
    with pytest.raises(TypeError, match="dtype must be a floating-point type"):
        read("train", folder, dtype=torch.int64)
