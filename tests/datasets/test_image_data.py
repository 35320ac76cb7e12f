"""Images: MNIST from IDX files and from a mirror, scikit-learn's digits, a user's folder, division at random."""

import gzip
import hashlib
import importlib.util
import math
import os
import struct
import sys
import threading
import zlib
from fractions import Fraction
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.games import same_bits

from gan_influence.datasets import LabelledImages, digits, images, mnist, split

MNIST = importlib.import_module("gan_influence.datasets.mnist")  # the package's attribute is the function
PREFIXES = {"train": "train", "test": "t10k"}
KINDS = ("images-idx3", "labels-idx1")
FILES = {name: [f"{prefix}-{kind}-ubyte" for kind in KINDS] for name, prefix in PREFIXES.items()}
SIZES = {"train": 7, "test": 5}


def arrays(split):
    random = np.random.default_rng(SIZES[split])
    n = SIZES[split]
    return random.integers(0, 256, (n, 28, 28), dtype=np.uint8), random.integers(0, 10, n, dtype=np.uint8)


def images_file(pixels):
    return struct.pack(">4I", 0x803, *pixels.shape) + pixels.tobytes()


def labels_file(labels):
    return struct.pack(">2I", 0x801, len(labels)) + bytes(labels)


def contents(split):
    pixels, labels = arrays(split)
    return dict(zip(FILES[split], (images_file(pixels), labels_file(labels)), strict=True))


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch, request):
    if "data" not in request.keywords:
        monkeypatch.delenv("GAN_INFLUENCE_DATA", raising=False)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mnist").mkdir()
    for part in SIZES:
        for name, content in contents(part).items():
            (tmp_path / "mnist" / name).write_bytes(content)
    return tmp_path


def zip_all(folder):
    for path in (folder / "mnist").iterdir():
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


def to_levels(values):
    return np.round((values.double().numpy() + 1) * 127.5)


@pytest.mark.parametrize("split", SIZES)
@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzipped"])
def test_mnist_is_read_as_written_gzipped_or_not(folder, split, zipped):
    if zipped:
        zip_all(folder)
    data = mnist(split, folder)
    pixels, labels = arrays(split)
    assert isinstance(data, LabelledImages)
    assert data.images.shape == (SIZES[split], 1, 28, 28)
    assert data.images.dtype == torch.float32
    assert (to_levels(data.images[:, 0]) == pixels).all()
    assert same_bits(data.labels, torch.from_numpy(labels.astype(np.int64)))


def test_a_file_is_unzipped_by_what_it_is_not_by_its_name(folder):
    plain = mnist("test", folder)
    for name, content in contents("test").items():
        (folder / "mnist" / name).write_bytes(gzip.compress(content))
    assert same_bits(mnist("test", folder).images, plain.images)


def test_of_a_plain_and_a_gzipped_file_the_plain_one_is_read(folder):
    zip_all(folder)
    labels = FILES["test"][1]
    (folder / "mnist" / labels).write_bytes(labels_file([1, 2, 3, 4, 5]))
    assert mnist("test", folder).labels.tolist() == [1, 2, 3, 4, 5]


def test_the_variable_names_the_folder_unless_one_is_given(folder, monkeypatch):
    monkeypatch.setenv("GAN_INFLUENCE_DATA", str(folder))
    assert len(mnist("test").labels) == 5
    monkeypatch.setenv("GAN_INFLUENCE_DATA", str(folder / "elsewhere"))
    assert len(mnist("test", folder).labels) == 5


EXACT = [Fraction(2 * p, 255) - 1 for p in range(256)]
DIGITS = {torch.float16: 11, torch.bfloat16: 8, torch.float32: 24}  # of the significand, in base 2


def with_every_level(folder):
    pixels = np.zeros((1, 28, 28), np.uint8)
    pixels.flat[:256] = range(256)
    for name, content in zip(FILES["test"], (images_file(pixels), labels_file([7])), strict=True):
        (folder / "mnist" / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("dtype", DIGITS, ids=str)
def test_every_level_is_the_nearest_number_of_its_type_to_p_over_127_5_minus_1(folder, dtype):
    values = mnist("test", with_every_level(folder), dtype=dtype).images.flatten()[:256]
    assert values.dtype == dtype
    for value, exact in zip(values.tolist(), EXACT, strict=True):
        unit = Fraction(2) ** (math.floor(math.log2(abs(exact))) + 1 - DIGITS[dtype])
        assert abs(Fraction(value) - exact) <= unit / 2


def test_in_float64_a_level_is_what_python_computes(folder):
    values = mnist("test", with_every_level(folder), dtype=torch.float64).images.flatten()[:256]
    assert values.dtype == torch.float64
    assert values.tolist() == [p / 127.5 - 1 for p in range(256)]
    assert values[0] == -1
    assert values[255] == 1


def images_of(side):
    return images_file(np.zeros((5, *side), np.uint8))


def flipped(content):
    zipped = bytearray(gzip.compress(content))
    zipped[len(zipped) // 2] ^= 1
    return bytes(zipped)


IMAGES, LABELS = FILES["test"]
BAD_FILES = {
    "truncated": (IMAGES, lambda c: c[:-1], r"announces 5 x 28 x 28 = 3920 bytes of images, but 3919 follow: copy it"),
    "trailing": (IMAGES, lambda c: c + b"\0", r"3920 bytes of images, but 3921 follow: copy it anew"),
    "truncated-labels": (LABELS, lambda c: c[:-2], r"announces 5 = 5 bytes of labels, but 3 follow"),
    "empty": (IMAGES, lambda c: b"", r"is damaged: it holds 0 bytes, but its header alone has 16: copy it anew"),
    "half-a-header": (LABELS, lambda c: c[:7], r"is damaged: it holds 7 bytes, but its header alone has 8"),
    "truncated-gzip": (IMAGES, lambda c: gzip.compress(c)[:-9], r"is damaged \(.*\): copy it anew"),
    "gzip-checksum": (IMAGES, flipped, r"is damaged \(.*\): copy it anew"),
    "after-gzip": (LABELS, lambda c: gzip.compress(c) + b"rest", r"is damaged \(.*\): copy it anew"),
    "no-idx": (IMAGES, lambda c: b"<!DOCTYPE html><html>", r"is no IDX file of bytes: it begins with 0x3c21444f, exp"),
    "floats": (IMAGES, lambda c: b"\0\0\x0d\3" + c[4:], r"begins with 0x00000d03, expected images .magic number 0x803"),
    "little-endian": (LABELS, lambda c: c[3::-1] + c[4:], r"begins with 0x01080000, expected labels .magic number 0x8"),
    "no-images": (IMAGES, lambda c: images_file(np.zeros((0, 28, 28), np.uint8)), r"holds no images: its header says"),
    "height": (IMAGES, lambda c: images_of((27, 28)), r"holds images of 27 x 28 pixels, but MNIST's are 28 x 28"),
    "width": (IMAGES, lambda c: images_of((28, 32)), r"holds images of 28 x 32 pixels, but MNIST's are 28 x 28"),
    "label": (LABELS, lambda c: labels_file([0, 9, 3, 10, 255]), r"labels\[3\] is 10, but MNIST's labels are 0 to 9"),
}


@pytest.mark.parametrize(("name", "spoil", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_named_and_refused(folder, name, spoil, message):
    path = folder / "mnist" / name
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as caught:
        mnist("test", folder)
    assert str(caught.value).startswith(f"{path}")


@pytest.mark.parametrize(
    ("here", "there", "message"),
    [(IMAGES, LABELS, r"holds labels \(magic number 0x801\), as if .* were swapped, expected images .*0x803"),
     (LABELS, IMAGES, r"holds images \(magic number 0x803\), as if .* were swapped, expected labels .*0x801")],
    ids=["labels-as-images", "images-as-labels"],
)  # fmt: skip
def test_images_and_labels_in_each_others_place_are_told(folder, here, there, message):
    (folder / "mnist" / here).write_bytes((folder / "mnist" / there).read_bytes())
    with pytest.raises(ValueError, match=f"{here} {message}"):
        mnist("test", folder)


def test_images_and_labels_that_do_not_belong_together_are_named_with_their_counts(folder):
    (folder / "mnist" / LABELS).write_bytes(contents("train")[FILES["train"][1]])
    with pytest.raises(ValueError, match=f"{IMAGES} holds 5 images, but .*{LABELS} holds 7 labels"):
        mnist("test", folder)


@pytest.mark.parametrize(
    ("given", "culprit"),
    [("elsewhere", "elsewhere"), ("empty", "empty/mnist"), ("", f"mnist/{LABELS}")],
    ids=["folder", "subfolder", "file"],
)
def test_what_is_missing_is_named_with_both_expected_files_and_both_ways_out(folder, given, culprit):
    (folder / "empty").mkdir()
    (folder / "mnist" / LABELS).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        mnist("test", folder / given)
    message = str(caught.value)
    name, rows = (LABELS, "labels") if not given else (IMAGES, "images")
    path = folder / given / "mnist" / name
    assert message.startswith(f"{folder / culprit} is not there: the {rows} are expected in {path} or {path}.gz, below")
    for way_out in ("folder=", "GAN_INFLUENCE_DATA", "gan_influence.datasets.digits", "MNIST is downloaded"):
        assert way_out in message


@pytest.mark.parametrize("split", ["valid", "Train", "", None])
def test_only_the_two_splits_are_offered(folder, split):
    with pytest.raises(ValueError, match=rf"split must be 'train' or 'test', got {split!r}"):
        mnist(split, folder)


@pytest.mark.parametrize(
    "make", [partial(mnist, "test"), digits, partial(images, ".")], ids=["mnist", "digits", "images"]
)
@pytest.mark.parametrize("dtype", [torch.uint8, "float32", None])
def test_only_floating_point_types_are_offered(make, dtype):
    with pytest.raises(TypeError, match=rf"floating-point type such as torch.float32, got {dtype!r}"):
        make(dtype=dtype)


class Mirror:
    """A server of files; ``sent`` lists what it was asked for."""

    def __init__(self):
        self.files, self.sent, self.cut = {}, [], 0
        mirror = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.removeprefix("/")
                mirror.sent.append(name)
                if name not in mirror.files:
                    self.send_error(404)
                    return
                content = mirror.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: len(content) - mirror.cut])

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


ORIGINALS = {f"{name}.gz": gzip.compress(content, mtime=0) for s in SIZES for name, content in contents(s).items()}
NO_SERVER = "http://127.0.0.1:9/"  # the port for which nothing answers


@pytest.fixture
def mirrors(monkeypatch):
    one, other = Mirror(), Mirror()
    one.files, other.files = dict(ORIGINALS), dict(ORIGINALS)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(MNIST, "_MIRRORS", (one.address, other.address))
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in ORIGINALS.items()}
    monkeypatch.setattr(MNIST, "_SHA256", sums)
    yield one, other
    one.close()
    other.close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gan-influence" / "mnist"


def in_folder(path):
    return {file.name: file.read_bytes() for file in path.iterdir()} if path.exists() else {}


def test_the_four_published_files_are_known_by_their_checksums():
    assert list(MNIST._SHA256) == [f"{name}.gz" for split in SIZES for name in FILES[split]]
    assert all(len(bytes.fromhex(sha256)) == 32 for sha256 in MNIST._SHA256.values())
    assert all(mirror.startswith("https://") and mirror.endswith("/mnist/") for mirror in MNIST._MIRRORS)


def test_without_a_folder_the_four_files_are_downloaded_once(mirrors, cache, folder):
    one, other = mirrors
    for part in SIZES:
        for found, expected in zip(mnist(part), mnist(part, folder), strict=True):
            assert same_bits(found, expected)
    assert sorted(one.sent) == sorted(ORIGINALS)
    assert other.sent == []
    assert in_folder(cache) == ORIGINALS


def test_a_set_variable_or_a_folder_is_never_replaced_by_a_download(mirrors, cache, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError):
        mnist("test", tmp_path)
    monkeypatch.setenv("GAN_INFLUENCE_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError):
        mnist("test")
    assert mirrors[0].sent == []
    assert in_folder(cache) == {}


def test_where_one_mirror_sends_something_else_the_other_is_asked(mirrors, cache):
    one, other = mirrors
    one.files[f"{IMAGES}.gz"] = b"<html>sign in to the network</html>"
    del one.files[f"{LABELS}.gz"]
    assert len(mnist("test").labels) == SIZES["test"]
    assert sorted(other.sent) == [f"{IMAGES}.gz", f"{LABELS}.gz"]
    assert in_folder(cache) == ORIGINALS


WAYS_OUT = (
    "GAN_INFLUENCE_DATA",
    "folder=",
    "on a machine with network",
    "gan_influence.datasets.digits has smaller images, with nothing to download",
)


def refusal(split="train"):
    with pytest.raises(FileNotFoundError) as caught:
        mnist(split)
    for way_out in WAYS_OUT:
        assert way_out in str(caught.value)
    return str(caught.value)


def test_a_file_with_the_wrong_checksum_is_not_kept(mirrors, cache):
    name = next(iter(ORIGINALS))
    other_content = gzip.compress(b"something else", mtime=0)
    for mirror in mirrors:
        mirror.files[name] = other_content
    message = refusal()
    assert in_folder(cache) == {}
    for mirror in mirrors:
        assert f"{mirror.address}{name}: {len(other_content)} bytes with SHA-256" in message
    assert f"{hashlib.sha256(other_content).hexdigest()}, expected {MNIST._SHA256[name]}" in message


def test_a_transfer_that_breaks_off_is_not_kept(mirrors, cache):
    for mirror in mirrors:
        mirror.cut = 10
    assert "IncompleteRead" in refusal()
    assert in_folder(cache) == {}


def test_a_file_that_no_mirror_has_is_told(mirrors, cache):
    for mirror in mirrors:
        mirror.files.clear()
    assert refusal().count("HTTP Error 404") == 2
    assert in_folder(cache) == {}


def test_without_network_the_ways_out_are_named_with_the_cache_and_each_address(mirrors, cache, monkeypatch):
    monkeypatch.setattr(MNIST, "_MIRRORS", (NO_SERVER,))
    message = refusal("test")
    assert message.startswith(f"MNIST could not be downloaded into {cache} ({NO_SERVER}train-images-idx3-ubyte.gz: ")


def test_files_in_the_cache_need_no_network(mirrors, cache, monkeypatch):
    mnist("train")
    monkeypatch.setattr(MNIST, "_MIRRORS", (NO_SERVER,))
    (cache / f"{IMAGES}.gz").unlink()  # of the split that is not asked for
    assert len(mnist("train").labels) == SIZES["train"]
    refusal("test")


@pytest.mark.parametrize("name", [f"{IMAGES}.gz", f"{LABELS}.gz"])
def test_a_file_that_went_bad_in_the_cache_is_downloaded_anew(mirrors, cache, name):
    mnist("test")
    mirrors[0].sent.clear()
    (cache / name).write_bytes(ORIGINALS[name][:-1])
    assert len(mnist("test").images) == SIZES["test"]
    assert mirrors[0].sent == [name]
    assert in_folder(cache) == ORIGINALS


def test_a_file_that_cannot_be_put_in_place_leaves_nothing_behind(mirrors, cache, monkeypatch):
    replace, last = os.replace, list(ORIGINALS)[-1]

    def interrupted(source, target):
        assert Path(source).read_bytes() == ORIGINALS[Path(target).name]
        if Path(target).name == last:
            raise OSError("interrupted")
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    assert "interrupted" in refusal()
    assert in_folder(cache) == {name: content for name, content in ORIGINALS.items() if name != last}


def test_a_cache_that_cannot_be_made_is_told_with_the_ways_out(mirrors, cache):
    cache.parent.parent.write_text("a file where the folder should be")
    assert str(cache.parent.parent) in refusal()
    assert mirrors[0].sent == []


@pytest.mark.parametrize("value", [None, "", "relative/cache"])
def test_the_cache_is_in_the_users_home_unless_an_absolute_path_is_set(mirrors, tmp_path, monkeypatch, value):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    if value is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    mnist("test")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    assert in_folder(tmp_path / "home" / ".cache" / "gan-influence" / "mnist") == ORIGINALS


def test_digits_are_scikit_learns_with_0_to_16_on_minus_1_to_1():
    from sklearn.datasets import load_digits

    data, bundled = digits(), load_digits()
    assert isinstance(data, LabelledImages)
    assert data.images.shape == (1797, 1, 8, 8)
    assert data.images.dtype == torch.float32
    assert ((data.images[:, 0].double().numpy() + 1) * 8 == bundled.images).all()
    assert data.labels.dtype == torch.int64
    assert (data.labels.numpy() == bundled.target).all()
    by_uci = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # optdigits.names
    assert data.labels.bincount().tolist() == by_uci


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_digits_are_the_same_numbers_in_every_type(dtype):
    data = digits(dtype=dtype)
    assert data.images.dtype == dtype
    assert torch.equal(data.images.double(), digits().images.double())


@pytest.mark.parametrize(
    ("module", "call", "package"),
    [("sklearn.datasets", digits, "scikit-learn"), ("PIL", lambda: images("."), "Pillow")],
    ids=["digits", "images"],
)
def test_a_package_that_is_not_installed_is_named_with_the_command_that_installs_it(monkeypatch, module, call, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'needs {package}: pip install "gan-influence\[images\]"'):
        call()


@pytest.mark.parametrize("name", ["digits", "images"])
def test_neither_package_is_needed_to_import_the_module_that_uses_it(monkeypatch, name):
    for package in ("PIL", "sklearn"):
        monkeypatch.setitem(sys.modules, package, None)
    spec = importlib.util.find_spec(f"gan_influence.datasets.{name}")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def numbered(n):
    """Image i is filled with i, and its label is i."""
    return LabelledImages(torch.arange(n).float().reshape(n, 1, 1, 1).expand(n, 1, 2, 2), torch.arange(n))


def test_parts_are_disjoint_of_the_sizes_asked_for_and_keep_images_with_their_labels():
    parts = split(numbered(50), 20, 7, 1, seed=3)
    assert [len(part.images) for part in parts] == [20, 7, 1]
    for part in parts:
        assert isinstance(part, LabelledImages)
        assert torch.equal(part.images, part.labels.float().reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2))
    assert len(torch.cat([part.labels for part in parts]).unique()) == 28


def test_parts_may_take_all_rows():
    one, other = split(numbered(30), 10, 20, seed=0)
    assert sorted(one.labels.tolist() + other.labels.tolist()) == list(range(30))
    (everything,) = split(numbered(30), 30, seed=0)
    assert sorted(everything.labels.tolist()) == list(range(30))
    assert everything.labels.tolist() != list(range(30))


def test_a_seed_fixes_the_parts_and_torchs_generator_is_left_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = [part.labels.tolist() for part in split(numbered(40), 10, 10, seed=1)]
    assert first == [part.labels.tolist() for part in split(numbered(40), np.int64(10), 10, seed=1)]
    assert first[0] == split(numbered(40), 10, seed=1)[0].labels.tolist()
    assert first != [part.labels.tolist() for part in split(numbered(40), 10, 10, seed=2)]
    assert torch.equal(torch.get_rng_state(), state)


def test_every_row_is_as_likely_as_any_other_in_every_part():
    seeds, rows = 2000, 10
    counts = np.zeros((2, rows))
    for seed in range(seeds):
        for part, drawn in enumerate(split(numbered(rows), 3, 2, seed=seed)):
            counts[part, drawn.labels.numpy()] += 1
    for part, share in enumerate([0.3, 0.2]):
        assert np.abs(counts[part] - share * seeds).max() < 5 * math.sqrt(seeds * share * (1 - share))


def test_parts_share_no_memory_with_the_data():
    data = LabelledImages(torch.zeros(4, 1, 2, 2), torch.zeros(4, dtype=torch.int64))
    (part,) = split(data, 4, seed=0)
    part.images.fill_(1)
    part.labels.fill_(1)
    assert not data.images.any()
    assert not data.labels.any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: split(numbered(5), 3, 3, seed=0), r"3 \+ 3 = 6 rows are asked for, but the data has 5"),
        (lambda: split(numbered(5), np.uint8(200), np.uint8(56), seed=0), r"200 \+ 56 = 256 rows are asked for"),
        (lambda: split(numbered(5), 6, seed=0), r"^6 rows are asked for, but the data has 5"),
        (lambda: split(numbered(5), 2, 0, seed=0), r"sizes\[1\] must be a whole number >= 1, got 0"),
        (lambda: split(numbered(5), -1, seed=0), r"sizes\[0\] must be a whole number >= 1, got -1"),
        (lambda: split(numbered(5), 0.5, seed=0), r"sizes\[0\] must be a whole number >= 1, got 0.5"),
        (lambda: split(numbered(5), True, seed=0), r"sizes\[0\] must be a whole number >= 1, got True"),
        (lambda: split(numbered(5), seed=0), r"needs the size of at least one part"),
        (lambda: split(numbered(5), 2, seed=None), r"seed must be a whole number >= 0, got None"),
        (lambda: split(numbered(5), 2, seed=-1), r"seed must be a whole number >= 0, got -1"),
        (lambda: split(LabelledImages(torch.zeros(3, 1, 2, 2), torch.arange(4)), 2, seed=0), r"3 images, but 4 labels"),
    ],
)
def test_impossible_parts_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def noise(height, width, *channels, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)


def read(folder, **options):
    """Levels ``(n, channels, height, width)``."""
    return to_levels(images(folder, **options).images)


def test_a_folder_is_read_sorted_by_name_and_row_i_is_the_file_names_i(tmp_path):
    names = ["b.png", "a10.bmp", "a9.PNG", "C.png"]
    levels = {name: noise(4, 6, 3, seed=seed) for seed, name in enumerate(names)}
    for name, array in levels.items():
        save(tmp_path / name, array)
    found = images(tmp_path)
    assert found._fields == ("images", "names")
    assert found.names == ("C.png", "a10.bmp", "a9.PNG", "b.png")
    assert found.images.shape == (4, 3, 4, 6)
    assert found.images.dtype == torch.float32
    for row, name in zip(found.images, found.names, strict=True):
        assert (to_levels(row) == levels[name].transpose(2, 0, 1)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64], ids=str)
def test_levels_of_a_folder_are_scaled_as_mnists(tmp_path, dtype):
    save(tmp_path / "ramp.png", np.arange(256, dtype=np.uint8).reshape(16, 16))
    values = images(tmp_path, dtype=dtype).images
    assert values.shape == (1, 1, 16, 16)
    assert same_bits(values.flatten(), torch.tensor([p / 127.5 - 1 for p in range(256)], dtype=torch.float64).to(dtype))


@pytest.mark.parametrize("suffix", ["png", "jpg", "jpeg", "bmp", "webp", "JPG"])
def test_each_format_is_read(tmp_path, suffix):
    flat = np.broadcast_to(np.array([200, 100, 50], np.uint8), (8, 8, 3))
    save(tmp_path / f"x.{suffix}", flat, quality=95)
    assert np.abs(read(tmp_path) - flat.transpose(2, 0, 1)).max() <= 3  # JPEG and WebP are lossy


def test_what_is_no_image_of_the_folder_itself_is_left_out(tmp_path):
    save(tmp_path / "x.png", noise(4, 4))
    (tmp_path / "._x.png").write_bytes(b"what macOS puts beside a file")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "more.png").mkdir()
    save(tmp_path / "more.png" / "y.png", noise(9, 9))
    assert images(tmp_path).names == ("x.png",)


def test_an_empty_folder_is_told_what_is_looked_for(tmp_path):
    (tmp_path / "sub").mkdir()
    save(tmp_path / "sub" / "x.png", noise(4, 4))
    expected = r"holds no image: files that end in \.bmp, \.jpeg, \.jpg, \.png, \.webp are looked for, not in sub-fold"
    with pytest.raises(FileNotFoundError, match=expected):
        images(tmp_path)


@pytest.mark.parametrize("name", ["missing", "x.png"])
def test_what_is_no_folder_is_refused(tmp_path, name):
    save(tmp_path / "x.png", noise(4, 4))
    with pytest.raises(FileNotFoundError, match=f"{name} is no folder: give the one that holds the images"):
        images(tmp_path / name)


def truncated(path):
    save(path, noise(64, 64, 3))
    path.write_bytes(path.read_bytes()[:3000])


def huge(path):
    save(path, noise(4, 4))
    content = bytearray(path.read_bytes())
    content[18:26] = struct.pack("<2i", 60_000, 60_000)  # width and height
    path.write_bytes(content)


UNREADABLE = {
    "bomb": ("x.bmp", huge),
    "truncated": ("x.png", truncated),
    "truncated-jpeg": ("x.jpg", truncated),
    "text": ("x.png", lambda path: path.write_text("not an image")),
    "empty": ("x.webp", lambda path: path.write_bytes(b"")),
    "other-format": ("x.png", lambda path: save(path, noise(4, 4), format="GIF")),
}


@pytest.mark.parametrize(("name", "make"), UNREADABLE.values(), ids=UNREADABLE)
def test_an_unreadable_image_is_named(tmp_path, name, make):
    save(tmp_path / "a.png", noise(4, 4))
    make(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} cannot be read as an image \(.*\): replace it, or take it out"):
        images(tmp_path, size=4, colours=1)


def test_an_image_of_another_size_is_named_with_both_sizes_and_the_fix(tmp_path):
    save(tmp_path / "a.png", noise(4, 6))
    save(tmp_path / "b.png", noise(6, 4))
    expected = r"b.png is 6 x 4 \(height x width\), but a.png is 4 x 6: give size=\(4, 6\) or another to resize all"
    with pytest.raises(ValueError, match=expected):
        images(tmp_path)
    assert images(tmp_path, size=(4, 6)).images.shape == (2, 1, 4, 6)


def test_an_image_of_another_mode_is_named_with_both_modes_and_the_fix(tmp_path):
    save(tmp_path / "a.png", noise(4, 4, 3))
    save(tmp_path / "b.png", noise(4, 4))
    expected = r"b.png has mode L, but a.png has RGB: give colours=1 or colours=3 to convert all"
    with pytest.raises(ValueError, match=expected):
        images(tmp_path)
    assert read(tmp_path, colours=1).shape == (2, 1, 4, 4)
    assert read(tmp_path, colours=3).shape == (2, 3, 4, 4)


OPAQUE = {
    "RGBA": lambda path: Image.fromarray(noise(5, 4, 3)).convert("RGBA").save(path),
    "LA": lambda path: Image.fromarray(noise(5, 4)).convert("LA").save(path),
    "P": lambda path: Image.fromarray(noise(5, 4, 3)).quantize(16).save(path),
    "P with alphas": lambda path: Image.fromarray(noise(5, 4, 3)).quantize(16).save(path, transparency=b"\xff" * 16),
}


@pytest.mark.parametrize("make", OPAQUE.values(), ids=OPAQUE)
def test_palettes_and_opaque_alphas_are_converted_only_when_told(tmp_path, make):
    make(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        mode, expected = image.mode, np.asarray(image.convert("RGBA"))[..., :3]
    with pytest.raises(ValueError, match=rf"x.png has mode {mode}, expected 1, L, RGB: give colours=1 or colours=3"):
        images(tmp_path)
    assert (read(tmp_path, colours=3)[0] == expected.transpose(2, 0, 1)).all()
    grey = expected @ np.array([0.299, 0.587, 0.114])
    assert np.abs(read(tmp_path, colours=1)[0, 0] - grey).max() < 1


def one_clear_pixel(path):
    alpha = np.full((4, 4), 255, np.uint8)
    alpha[2, 1] = 254
    save(path, np.dstack([noise(4, 4, 3), alpha]))


TRANSPARENT = {
    "RGBA": one_clear_pixel,
    "P": lambda path: Image.fromarray(noise(4, 4)).convert("P").save(path, transparency=int(noise(4, 4)[1, 1])),
    "RGB": lambda path: save(path, noise(4, 4, 3), transparency=tuple(noise(4, 4, 3)[1, 1].tolist())),
    "L": lambda path: save(path, noise(4, 4), transparency=int(noise(4, 4)[1, 1])),
}


@pytest.mark.parametrize("make", TRANSPARENT.values(), ids=TRANSPARENT)
@pytest.mark.parametrize("colours", [None, 1, 3])
def test_a_transparent_image_is_refused(tmp_path, make, colours):
    make(tmp_path / "x.png")
    expected = r"x.png is transparent in places: lay it over a background first, and save it without alpha"
    with pytest.raises(ValueError, match=expected):
        images(tmp_path, colours=colours)


def test_a_transparent_colour_that_does_not_occur_does_no_harm(tmp_path):
    save(tmp_path / "x.png", np.full((4, 4), 7, np.uint8), transparency=8)
    assert (read(tmp_path) == 7).all()


def test_grey_is_weighted_by_itu_r_601_and_grey_stays_grey(tmp_path):
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 90, 90]]], np.uint8)
    save(tmp_path / "x.png", colours)
    assert read(tmp_path, colours=1)[0, 0, 0].tolist() == [76, 150, 29, 90]  # .299, .587 and .114 of 255
    grey = noise(4, 4)
    save(tmp_path / "x.png", grey)
    assert (read(tmp_path, colours=1)[0, 0] == grey).all()
    assert (read(tmp_path, colours=3)[0] == grey).all()


def test_black_and_white_is_read_as_0_and_255(tmp_path):
    bits = noise(4, 4) > 127
    Image.fromarray(bits).save(tmp_path / "x.png")
    assert (read(tmp_path)[0, 0] == 255 * bits).all()
    assert (read(tmp_path, colours=3)[0] == 255 * bits).all()


@pytest.mark.parametrize("colours", [None, 1, 3])
def test_more_than_8_bits_a_value_are_refused(tmp_path, colours):
    save(tmp_path / "x.png", noise(4, 4).astype(np.uint16) * 257)
    with pytest.raises(ValueError, match=r"x.png has mode I;16, with more than 8 bits a value: save it with 8"):
        images(tmp_path, colours=colours)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def write_png(path, depth, colour_type, rows, *chunks):
    """Two pixels wide, of raw rows."""
    header = struct.pack(">2I5B", 2, len(rows), depth, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize("name", ["x.png", "x.jpg"])  # a file is what it holds, not what it is called
@pytest.mark.parametrize(("colour_type", "values"), [(2, 3), (4, 2), (6, 4)], ids=["RGB", "LA", "RGBA"])
@pytest.mark.parametrize("colours", [None, 1, 3])
def test_a_png_of_16_bits_a_value_is_refused_whatever_its_colours(tmp_path, name, colour_type, values, colours):
    save(tmp_path / "a.png", noise(1, 2, 3))
    pixel = struct.pack(f">{values}H", *[300] * (values - 1), 0xFFFF)  # the last is an alpha that is opaque
    write_png(tmp_path / name, 16, colour_type, [2 * pixel])
    with pytest.raises(ValueError, match=rf"{name} has 16 bits a value, of which only the first 8 would be read: save"):
        images(tmp_path, colours=colours)


@pytest.mark.parametrize(("depth", "row", "levels"), [(2, 0b0110_0000, [85, 170]), (4, 0x1E, [17, 238])], ids=str)
def test_a_png_of_fewer_than_8_bits_is_stretched_to_all_levels(tmp_path, depth, row, levels):
    write_png(tmp_path / "x.png", depth, 0, [bytes([row])])
    assert read(tmp_path).flatten().tolist() == levels
    write_png(tmp_path / "x.png", depth, 0, [bytes([row])], chunk(b"tRNS", struct.pack(">H", 0)))  # 0 does not occur
    assert read(tmp_path).flatten().tolist() == levels


@pytest.mark.parametrize(("depth", "row"), [(1, 0b0100_0000), (2, 0b0110_0000), (4, 0x1E)], ids=str)
def test_a_transparent_grey_of_fewer_than_8_bits_is_refused(tmp_path, depth, row):
    write_png(tmp_path / "x.png", depth, 0, [bytes([row])], chunk(b"tRNS", struct.pack(">H", 1)))
    with pytest.raises(ValueError, match=r"x.png is transparent in places"):
        images(tmp_path)


@pytest.mark.parametrize("colours", [None, 1, 3])
def test_the_colours_of_a_printer_are_refused(tmp_path, colours):
    Image.fromarray(noise(4, 4, 4), "CMYK").save(tmp_path / "x.jpg")
    with pytest.raises(ValueError, match=r"x.jpg has mode CMYK, whose colours depend on the printer: save it as RGB"):
        images(tmp_path, colours=colours)


@pytest.mark.parametrize("array", [noise(4, 4).astype(np.float32), noise(4, 4).astype(np.uint16)], ids=["F", "I;16"])
def test_a_tiff_of_another_name_is_refused(tmp_path, array):
    save(tmp_path / "x.png", array, format="TIFF")
    with pytest.raises(ValueError, match=r"x.png cannot be read as an image"):
        images(tmp_path, colours=1)


def lanczos(levels, size):
    """Weights sinc(u) sinc(u / 3) for |u| < 3, stretched over as many old pixels as go into a new one."""
    scale = levels.shape[0] / size
    centres = (np.arange(size) + 0.5) * scale
    u = (np.arange(levels.shape[0]) + 0.5 - centres[:, None]) / max(scale, 1)
    weights = np.where(np.abs(u) < 3, np.sinc(u) * np.sinc(u / 3), 0)
    return weights / weights.sum(1, keepdims=True) @ levels


@pytest.mark.parametrize("size", [(8, 6), (40, 21), (13, 50)])
def test_images_are_resized_with_an_antialiased_lanczos_kernel(tmp_path, size):
    levels = 64 + noise(32, 24) // 2  # nothing overshoots 0 or 255
    save(tmp_path / "x.png", levels)
    expected = lanczos(lanczos(levels, size[0]).T, size[1]).T
    found = read(tmp_path, size=size)
    assert found.shape == (1, 1, *size)
    assert np.abs(found[0, 0] - expected).max() < 1.5  # Pillow rounds after each direction


def test_images_are_resized_in_each_colour_after_the_palette_is_looked_up(tmp_path):
    levels = np.zeros((16, 16, 3), np.uint8)
    levels[::2, :, 0] = 200  # stripes of red and black
    save(tmp_path / "x.png", levels)
    expected = read(tmp_path, size=4)
    assert np.abs(expected[0, 0] - 100).max() < 10
    Image.fromarray(levels).quantize(2).save(tmp_path / "x.png")  # stripes of 0 and 1
    assert (read(tmp_path, size=4, colours=3) == expected).all()


def test_an_image_that_has_the_size_already_is_left_as_it_is(tmp_path):
    save(tmp_path / "x.png", noise(9, 7))
    assert (read(tmp_path, size=(9, 7)) == noise(9, 7)).all()


def test_one_number_is_both_sides(tmp_path):
    save(tmp_path / "x.png", noise(9, 7))
    assert (read(tmp_path, size=5) == read(tmp_path, size=(5, 5))).all()
    assert (read(tmp_path, size=np.int64(5)) == read(tmp_path, size=(5, 5))).all()


def test_an_image_is_turned_as_its_exif_orientation_says(tmp_path):
    levels = noise(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    save(tmp_path / "x.png", levels, exif=exif)
    assert (read(tmp_path)[0, 0] == np.rot90(levels, -1)).all()


def test_of_an_animation_the_first_picture_is_taken(tmp_path):
    pictures = [Image.fromarray(noise(4, 4, seed=seed)) for seed in range(3)]
    pictures[0].save(tmp_path / "x.png", save_all=True, append_images=pictures[1:])
    assert (read(tmp_path)[0, 0] == noise(4, 4)).all()


def test_of_an_animated_webp_the_first_picture_is_taken(tmp_path):
    pictures = [Image.fromarray(noise(4, 4, 3, seed=seed)) for seed in range(3)]
    pictures[0].save(tmp_path / "x.webp", save_all=True, append_images=pictures[1:], lossless=True)
    assert (read(tmp_path)[0] == noise(4, 4, 3).transpose(2, 0, 1)).all()


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_an_image_smaller_than_asked_for_is_refused_unless_it_may_be_enlarged(tmp_path, shape):
    save(tmp_path / "a.png", noise(5, 5))
    assert images(tmp_path, size=5, enlarge=False).images.shape == (1, 1, 5, 5)
    save(tmp_path / "b.png", noise(*shape))
    expected = (
        rf"b.png is {shape[0]} x {shape[1]} \(height x width\), less than the 5 x 5 asked for, and nothing is enlarged "
        "without enlarge=True: put a larger one in its place, or take it out"
    )
    with pytest.raises(ValueError, match=expected):
        images(tmp_path, size=5, enlarge=False)
    assert images(tmp_path, size=4, enlarge=False).images.shape == (2, 1, 4, 4)
    assert images(tmp_path, size=5).images.shape == (2, 1, 5, 5)


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_a_grey_image_is_refused_for_colours_unless_it_may_be_converted(tmp_path, mode):
    save(tmp_path / "a.png", noise(4, 4, 3))
    assert images(tmp_path, colours=3, colour_grey=False).images.shape == (1, 3, 4, 4)
    Image.fromarray(noise(4, 4)).convert(mode).save(tmp_path / "b.png")
    expected = rf"b.png is grey \(mode {mode}\), and none is made RGB without colour_grey=True: save it as RGB"
    with pytest.raises(ValueError, match=expected):
        images(tmp_path, colours=3, colour_grey=False)
    assert images(tmp_path, colours=1, colour_grey=False).images.shape == (2, 1, 4, 4)
    assert images(tmp_path, colours=3).images.shape == (2, 3, 4, 4)


@pytest.mark.parametrize("size", [0, -1, 2.5, True, (4,), (4, 0), (4, 4, 3), (4, None), "4"])
def test_impossible_sizes_are_refused(tmp_path, size):
    with pytest.raises(ValueError, match=r"size must be \(height, width\) or one whole number for both, each >= 1"):
        images(tmp_path, size=size)


@pytest.mark.parametrize("colours", [0, 2, 4, True, 3.0, "RGB"])
def test_only_1_and_3_colours_are_offered(tmp_path, colours):
    with pytest.raises(ValueError, match=rf"colours must be 1 \(grey\) or 3 \(RGB\), got {colours!r}"):
        images(tmp_path, colours=colours)


@pytest.fixture(scope="module")
def published():
    return {split: mnist(split) for split in SIZES}


@pytest.mark.data
def test_mnist_has_its_known_counts(published):
    train, test = published["train"], published["test"]
    assert train.images.shape == (60_000, 1, 28, 28)
    assert test.images.shape == (10_000, 1, 28, 28)
    known = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert train.labels.bincount().tolist() == known
    assert test.labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


@pytest.mark.data
def test_mnist_pixels_fill_minus_1_to_1_with_the_known_mean_and_deviation(published):
    for data in published.values():
        assert data.images.min() == -1
        assert data.images.max() == 1
    pixels = published["train"].images
    assert (pixels.mean().item() + 1) / 2 == pytest.approx(0.1307, abs=5e-5)  # as everybody normalises MNIST
    assert pixels.std().item() / 2 == pytest.approx(0.3081, abs=5e-5)


@pytest.mark.data
def test_mnists_test_images_and_all_labels_written_back_have_the_originals_checksums(published):
    test = published["test"]
    pixels = to_levels(test.images[:, 0]).astype(np.uint8)
    written = [images_file(pixels)] + [labels_file(data.labels.tolist()) for data in (test, published["train"])]
    assert [hashlib.sha256(content).hexdigest() for content in written] == [
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",  # of the unzipped files
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ]
