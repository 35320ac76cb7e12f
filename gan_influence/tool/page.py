"""``summary.html``: one file, which opens from disk and needs nothing else."""

from __future__ import annotations

from pathlib import Path

from gan_influence.tool.arguments import Settings
from gan_influence.tool.outcome import Outcome
from gan_influence.tool.problem import Problem
from gan_influence.tool.sections import (
    agreement_section,
    details_section,
    found_section,
    groups_section,
    judgement_section,
    picture_section,
    verdict_section,
)

__all__ = ["write_page"]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 1090px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.6em } h2 { font-size: 1.2em; margin: 2em 0 .4em; border-bottom: 1px solid #ddd }
p { max-width: 75ch } .note { color: #555; font-size: .9em }
.verdict { padding: .7em 1em; border-left: 6px solid; max-width: none }
.good { background: #e9f6ec; border-color: #2b8a3e } .bad { background: #fdecea; border-color: #c92a2a }
.unsure { background: #fff6e0; border-color: #e8a200 }
table { border-collapse: collapse } th, td { padding: .15em .9em .15em 0; text-align: left }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums } img { max-width: 100% }
pre { white-space: pre-wrap }
.bar { display: inline-block; height: .8em; vertical-align: middle } svg text { font: 12px system-ui, sans-serif }
"""


def write_page(out: Path, problem: Problem, settings: Settings, outcome: Outcome) -> None:
    """Write it into the folder, with the pictures that lie there."""
    sections = [
        f"<h1>Which of {problem.size} training rows do harm?</h1>",
        verdict_section(problem, settings, outcome),
        "" if outcome.judgement is None else judgement_section(outcome.judgement, outcome.saved, len(outcome.removed)),
        found_section(outcome),
        picture_section(
            out,
            "harmful.png",
            "Most harmful rows",
            "Removed first. Below each: its name, its label if it has one, its score.",
        ),
        picture_section(
            out, "helpful.png", "Most helpful rows", "The other end of the ranking: the generator needs these most."
        ),
        groups_section(outcome),
        picture_section(out, "generated.png", "Generated", "Trained on all rows."),
        picture_section(
            out,
            "generated-after.png",
            "Generated after cleansing",
            "From the same latents, trained without the removed rows.",
        ),
        agreement_section(outcome.agreement, settings),
        details_section(problem, settings, outcome),
    ]
    page = f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Cleansing</title><style>{_STYLE}</style>\n'
    (out / "summary.html").write_text(page + "\n".join(filter(None, sections)) + "\n</html>\n", encoding="utf-8")
