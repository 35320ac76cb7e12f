"""The ratios under pytest-benchmark: ``pytest bench``. A round is one interleaved pair."""

from __future__ import annotations

import pytest

from bench.cases import cases
from bench.ratios import Case, measure

CASES = [case for case in cases("standard", "cpu") if case.limit is not None]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name} on {case.game}")
def test_ratio_is_within_its_limit(case: Case, benchmark: pytest.FixtureRequest) -> None:
    measured = benchmark.pedantic(measure, args=(case, "cpu", 3), rounds=1)  # type: ignore[attr-defined]
    benchmark.extra_info.update(measured.summary(), game=case.game)  # type: ignore[attr-defined]
    median = measured.summary()["median"]
    assert case.holds(median), f"{case.name} is {median:.2f}, not {case.target}"
