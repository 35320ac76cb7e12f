"""Adult, two newsgroups and UCI's tables: from small files written here, and from the real ones where they are."""

import gzip
import json
import math
from itertools import chain

import pytest
import torch

from gan_influence.datasets import adult, newsgroups, uci

LOADERS = {
    "adult": (adult, "adult/adult-training.csv"),
    "newsgroups": (newsgroups, "20news/train.json"),
    "uci": (lambda *of, **options: uci("energy", *of, **options), "uci/energy.txt"),
}
each_loader = pytest.mark.parametrize(("load", "file"), LOADERS.values(), ids=LOADERS)

FIRST = (
    "39, State-gov, 77516, Bachelors, 13, Never-married, ?, Not-in-family, White, Male, 2174, 0, 40, Mexico, <=50K\n"
    "50, ?, 83311, 7th-8th, 4, Married-AF-spouse, Armed-Forces, Husband, White, Male, 0, 7, 13, United-States, >50K\n"
)
SECOND = (
    "|1x3 Cross validator\n"
    "25, Without-pay, 226802, 11th, 7, Divorced, Sales, Own-child, Black, Female, 0, 0, 40, Poland, >50K.\n\n"
)


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch, request):
    if "data" not in request.keywords:
        monkeypatch.delenv("GAN_INFLUENCE_DATA", raising=False)


def write(folder, file, text):
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(text.encode())) if file.endswith(".gz") else path.write_text(text)
    return path


def test_adult_is_numbers_and_then_joined_categories(tmp_path):
    write(tmp_path, "adult/adult-training.csv.gz", FIRST)
    write(tmp_path, "adult/adult-test.csv", SECOND)
    inputs, labels = adult(tmp_path)
    assert labels.tolist() == [0, 1, 1]
    numbers = [
        [39, math.log1p(77516), 13, 2174, 0, 40],
        [50, math.log1p(83311), 4, 0, 7, 13],
        [25, math.log1p(226802), 7, 0, 0, 40],
    ]
    torch.testing.assert_close(inputs[:, :6], torch.tensor(numbers).double(), rtol=1e-6, atol=0)
    categories = [
        *([0, 0, 1], [1, 0, 0], [0, 1, 0]),  # work: 0, Never-worked, State-gov
        *([1, 0], [0, 1], [0, 1]),  # education: Bachelors, Primary
        *([0, 0, 1], [0, 1, 0], [1, 0, 0]),  # Divorced, Married-civ-spouse, Never-married
        *([1, 0], [1, 0], [0, 1]),  # occupation: 0, Sales
        *([0, 1, 0], [1, 0, 0], [0, 0, 1]),  # Husband, Not-in-family, Own-child
        *([0, 1], [0, 1], [1, 0]),  # Black, White
        *([0, 1], [0, 1], [1, 0]),  # Female, Male
        *([0, 1, 0], [0, 0, 1], [1, 0, 0]),  # Polish, Poor, US
    ]
    expected = [list(chain(*categories[k::3])) for k in range(3)]
    assert inputs[:, 6:].tolist() == expected
    assert inputs.dtype == torch.float64
    assert adult(tmp_path, dtype=torch.float32).inputs.dtype == torch.float32


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("39, State-gov, 77516", r"adult-training\.csv, line 3 has 3 columns, but there must be 15"),
        (FIRST.splitlines()[0].replace("2174", "much"), r"line 3: field 4 must be a number, got 'much'"),
        (FIRST.splitlines()[0].replace("<=50K", "50K"), r"line 3: the income must be <=50K or >50K, got '50K'"),
    ],
)
def test_a_line_of_adult_that_is_damaged_is_named(tmp_path, line, message):
    write(tmp_path, "adult/adult-training.csv", FIRST + line)
    write(tmp_path, "adult/adult-test.csv", SECOND)
    with pytest.raises(ValueError, match=message):
        adult(tmp_path)


def test_words_are_weighed_by_the_training_texts_alone(tmp_path):
    train = ["disk disk drive", "mouse", "drive the mouse", "bus", "card", "floppy", "screen", "cable", "port", "chip"]
    write(tmp_path, "20news/train.json", json.dumps([{"label": k % 2, "text": text} for k, text in enumerate(train)]))
    write(tmp_path, "20news/test.json.gz", json.dumps([{"label": 1, "text": "disk drive unheard-of"}]))
    inputs, labels = newsgroups(tmp_path)
    words = sorted({"disk", "drive", "mouse", "bus", "card", "floppy", "screen", "cable", "port", "chip"})
    rarity = {word: math.log(11 / (1 + sum(word in text.split() for text in train))) + 1 for word in words}
    for row, text in zip(inputs, [*train, "disk drive"], strict=True):
        weights = torch.tensor([text.split().count(word) * rarity[word] for word in words]).double()
        torch.testing.assert_close(row, weights / weights.norm(), rtol=1e-6, atol=0)
    assert labels.tolist() == [*[k % 2 for k in range(10)], 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "train.json is no JSON"),
        ('[{"label": 0, "text": "a"}, {"label": 3, "text": "b"}]', "item 1 must be {label: 0 or 1, text: ...}, got"),
        ('[{"label": 0}]', "item 0 must be"),
    ],
)
def test_texts_of_another_form_are_refused(tmp_path, text, message):
    write(tmp_path, "20news/train.json", text)
    write(tmp_path, "20news/test.json", "[]")
    with pytest.raises(ValueError, match=message):
        newsgroups(tmp_path)


def test_a_table_is_its_numbers(tmp_path):
    write(tmp_path, "uci/energy.txt", "1 2 3 4 5 6 7 8 15.5\n\n8\t7 6 5 4 3 2 1 .5 \n")
    write(tmp_path, "uci/pima.csv.gz", "1,2,3,4,5,6,7,8,1\n8,7,6,5,4,3,2,1,0")
    energy, pima = uci("energy", tmp_path), uci("pima", tmp_path)
    assert energy.inputs.tolist() == pima.inputs.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8], [8, 7, 6, 5, 4, 3, 2, 1]]
    assert energy.targets.tolist() == [[15.5], [0.5]]
    assert pima.targets.tolist() == [1, 0]
    assert pima.targets.dtype == torch.int64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3,4,5,6,7,8,1\n1,2,3\n", r"pima\.csv, line 2 has 3 columns, but there must be 9"),
        ("1,2,3,4,x,6,7,8,1\n", r"line 1: field 5 must be a number, got 'x'"),
        ("1,2,3,4,5,6,7,8,2\n", r"line 1: the label must be 0 or 1, got 2"),
    ],
)
def test_a_line_of_a_table_that_is_damaged_is_named(tmp_path, text, message):
    write(tmp_path, "uci/pima.csv", text)
    with pytest.raises(ValueError, match=message):
        uci("pima", tmp_path)


def test_an_unknown_table_is_told_the_known_ones():
    with pytest.raises(ValueError, match="name must be one of concrete, energy, pima, got 'boston'"):
        uci("boston")


@each_loader
def test_without_a_folder_it_says_what_to_set_and_where_to_get_the_file(load, file, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=f"no folder to read {file} from: .*set the environment variable GAN_INF"
    ):
        load()
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}/.* is not there: the rows are expected in .*{file}"):
        load(tmp_path)


@each_loader
def test_a_type_that_is_not_floating_point_is_refused(load, file, tmp_path):
    with pytest.raises(TypeError, match="dtype"):
        load(tmp_path, dtype=torch.int64)


@pytest.mark.data
def test_the_real_files_have_the_sizes_that_are_known():
    inputs, labels = adult()
    assert (len(inputs), int(labels.sum())) == (48_842, 7841 + 3846)
    assert inputs.shape[1] == 6 + 8 + 10 + 6 + 14 + 6 + 5 + 2 + 5
    texts = newsgroups()
    assert len(texts.inputs) == 1945
    assert [len(uci(name).inputs) for name in ("concrete", "energy", "pima")] == [1030, 768, 768]
