"""The comparison of solvers, on small problems: all of them come as near to the dense solution as it says."""

import sys

import pytest
import torch
from support.games import relative_error

from bench import solvers

TINY = solvers.Problem(3, 0, 0.1, "hessian"), solvers.Problem(2, 2, 0.1, "gauss_newton")


@pytest.mark.parametrize("problem", TINY, ids=["softmax", "perceptron"])
def test_every_solver_comes_near_enough_and_counts_what_it_took(problem):
    rows = {row["solver"]: row for row in solvers.compare(problem, 1)}
    assert list(rows) == ["matrix", "CG", "GMRES", "normal equations", "momentum", "LiSSA", "Neumann"]
    for row in rows.values():
        assert row["error"] <= 1e-6
        assert row["seconds"] > 0
    assert rows["CG"]["products"] < rows["normal equations"]["products"]
    assert rows["CG"]["products"] < rows["LiSSA"]["products"]


def test_a_solver_that_does_not_get_there_is_shown_with_what_it_left(monkeypatch):
    for name, value in {"TARGET": 1e-30, "LARGEST_COUNT": 64, "TOLERANCES": [1e-5]}.items():
        monkeypatch.setattr(solvers, name, value)
    rows = {row["solver"]: row for row in solvers.compare(TINY[0], 1)}
    assert rows["CG"]["seconds"] != rows["CG"]["seconds"]
    assert 1e-30 < rows["CG"]["error"] < 1e-3


def test_points_apart_and_together_are_the_same_solutions():
    apart, together, _ = solvers.points_apart_against_together("cpu")
    assert relative_error(torch.cat([one.x for one in apart()]), together().x) < 1e-5
    one, other, _ = solvers.lissa_against_cg("cpu")
    assert relative_error(one().x, other().x) < 1e-4


def test_the_program_writes_what_it_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(solvers, "PROBLEMS", {"tiny": TINY[0]})
    monkeypatch.setattr(sys, "argv", ["bench.solvers", "--preset", "smoke", "--out", str(tmp_path)])
    assert solvers.main() == 0
    assert "tiny: 40 parameters, condition number" in capsys.readouterr().out
    assert '"solver": "LiSSA"' in (tmp_path / "solvers.json").read_text()
