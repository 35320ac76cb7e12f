"""The ratios under pytest-benchmark: ``pytest bench``. A round is one interleaved pair."""

from __future__ import annotations

import pytest

from bench.cases import CASES
from bench.ratios import Case, measure


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_ratio_is_within_its_limit(case: Case, benchmark: pytest.FixtureRequest) -> None:
    measured = benchmark.pedantic(measure, args=(case, "cpu", 3), rounds=1)  # type: ignore[attr-defined]
    benchmark.extra_info.update(measured.summary(), game=case.game)  # type: ignore[attr-defined]
    bound, limit = case.limit
    median = measured.summary()["median"]
    assert case.holds(median), f"{case.name} is {median:.2f}, not {bound} {limit}"
