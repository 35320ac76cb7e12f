"""Before and after in one run: ``python -m bench.against``."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from bench import against, steps
from bench.against import ROOT, checked_out, is_slower

COMMAND = [sys.executable, "-m", "bench.against"]


def worktrees() -> str:
    return subprocess.run(["git", "-C", ROOT, "worktree", "list"], capture_output=True, text=True, check=True).stdout


@pytest.fixture(autouse=True)
def checkout():
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")


def run(folder, *options):
    environment = {**os.environ, "TMPDIR": str(folder)}
    command = [*COMMAND, *options, "--out", str(folder)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_a_tree_is_compared_with_its_last_commit(tmp_path):
    ran = run(tmp_path, "HEAD", "--preset", "smoke", "--limit", "1000")
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "against.json").read_text())
    assert [(row["game"], row["name"]) for row in found["ratios"]] == [
        (game, step) for game in ("lqgan", "fcgan", "dcgan-8") for step in ("training_step", "sweep_step")
    ]
    for row in found["ratios"]:
        assert 0 < row["low"] <= row["median"] <= row["high"]
        assert row["median"] == pytest.approx(row["after_seconds"] / row["before_seconds"])
    assert str(tmp_path) not in worktrees()


def test_a_revision_that_is_not_there_is_named(tmp_path):
    ran = run(tmp_path, "no-such-revision")
    assert ran.returncode == 2
    assert "no revision 'no-such-revision'" in ran.stderr


@pytest.mark.parametrize("reason", [KeyboardInterrupt, RuntimeError])
def test_a_worktree_is_gone_whatever_happens(reason):
    seen = []

    def fail():
        with checked_out("HEAD") as tree:
            seen.extend([tree, (tree / "gan_influence").exists(), str(tree) in worktrees()])
            raise reason

    with pytest.raises(reason):
        fail()
    tree, *was_there = seen
    assert was_there == [True, True]
    assert not tree.exists()
    assert str(tree) not in worktrees()


@pytest.mark.parametrize(("median", "processor", "slower"), [(1.02, 1.03, False), (1.04, 1, True), (1, 1.04, True)])
def test_a_median_above_the_limit_is_slower(median, processor, slower):
    assert is_slower({"median": median, "processor_median": processor}, 1.03) is slower


def test_ratios_are_after_over_before():
    seconds = np.array([[[2.0, 1.0], [3.0, 3.0]], [[2.0, 1.0], [1.0, 2.0]], [[2.0, 1.0], [4.0, 1.0]]])
    row = against._ratio(seconds)
    assert (row["low"], row["median"], row["high"]) == (0.5, 1.5, 2.0)
    assert (row["processor_low"], row["processor_median"], row["processor_high"]) == (1.0, 2.0, 3.0)
    assert (row["before_seconds"], row["after_seconds"]) == (2.0, 3.0)


def test_every_game_of_a_preset_has_a_run():
    assert all(set(lengths) == set(steps.GAMES) for lengths in steps.LENGTHS.values())
