"""The list of the papers' numbered items is complete, and names only what exists."""

import subprocess
import sys
from pathlib import Path

import pytest

from reports.experiments import EXPERIMENTS
from verification.coverage import ITEMS, SENTENCES, table
from verification.ledger import claims

OWN = ("own_results", "core", "tools", "published_code")

LAST = {
    ("TNNLS", "equation"): 47,
    ("TNNLS", "assumption"): 4,
    ("TNNLS", "lemma"): 6,
    ("TNNLS", "theorem"): 2,
    ("TNNLS", "corollary"): 2,
    ("TNNLS", "definition"): 2,
    ("TNNLS", "algorithm"): 2,
    ("TNNLS", "table"): 9,
    ("TNNLS", "figure"): 10,
    ("TNNLS", "footnote"): 4,
    ("ICLR", "equation"): 12,
    ("ICLR", "algorithm"): 2,
    ("ICLR", "table"): 12,
    ("ICLR", "figure"): 7,
    ("NeurIPS", "equation"): 9,
    ("NeurIPS", "theorem"): 6,
    ("NeurIPS", "lemma"): 7,
    ("NeurIPS", "table"): 2,
    ("NeurIPS", "figure"): 12,
}
"""The last number of each kind in each paper, as typed from the papers: apart from the list that it is to hold."""

FIRST = {
    ("NeurIPS", "equation"): 6,
    ("NeurIPS", "theorem"): 5,
    ("NeurIPS", "lemma"): 7,
    ("NeurIPS", "table"): 2,
    ("NeurIPS", "figure"): 4,
}
"""The first number, where it is not 1: of a supplement, which goes on with the paper's numbers."""


@pytest.mark.parametrize(("paper", "kind"), LAST)
def test_no_number_is_missing(paper, kind):
    numbers = [one.number for one in ITEMS if (one.paper, one.kind) == (paper, kind)]
    assert numbers == list(range(FIRST.get((paper, kind), 1), LAST[paper, kind] + 1))


def test_there_is_no_other_kind():
    assert {(one.paper, one.kind) for one in ITEMS} == set(LAST)


def test_whatever_is_named_exists():
    known = {*claims(), *EXPERIMENTS}
    assert {name for one in ITEMS for name in one.tested_by} | set(SENTENCES) <= known


def test_each_item_is_tested_or_says_why_not():
    assert [one for one in ITEMS if bool(one.tested_by) == bool(one.why_not)] == []


def test_every_claim_of_the_papers_and_every_experiment_has_a_place():
    placed = {name for one in ITEMS for name in one.tested_by} | set(SENTENCES)
    of_papers = {name for name, one in claims().items() if one.section not in OWN}
    assert of_papers - placed == set()
    assert set(EXPERIMENTS) - placed == set()


def test_the_program_prints_every_item():
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "verification", "--coverage"]
    printed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout
    assert printed.rstrip("\n") == table()
    for one in ITEMS:
        assert f"{one.paper} {one.kind} {one.number} " in printed
