"""The sections of the summary, each as a piece of HTML; empty where there is nothing to tell."""

from __future__ import annotations

import base64
import math
from html import escape
from pathlib import Path

from gan_influence.tool.arguments import Settings
from gan_influence.tool.judging import Judgement
from gan_influence.tool.outcome import Outcome
from gan_influence.tool.problem import Problem
from gan_influence.tool.scoring import advice
from gan_influence.validation import Agreement

__all__ = [
    "agreement_section",
    "details_section",
    "found_section",
    "groups_section",
    "judgement_section",
    "picture_section",
    "verdict_section",
]


def verdict_section(problem: Problem, settings: Settings, outcome: Outcome) -> str:
    agreement = outcome.agreement
    if not outcome.recommended:
        return (
            f'<p class="verdict bad"><b>Nothing is recommended: these scores are not to be trusted.</b><br>'
            f"{escape(agreement.reason)}.<br>{escape(advice(problem, settings, outcome.last))}. "
            "<code>--untrusted</code> goes on all the same.</p>"
        )
    n = len(outcome.removed)
    share = f"{n} rows ({n / problem.size:.1%})"
    trust = "" if agreement.trusted else f" <b>But the scores are not to be trusted:</b> {escape(agreement.reason)}."
    more = " Whether that helps, <code>--retrain</code> measures."
    if outcome.judgement is not None:
        more = f"<br>{escape(outcome.judgement.verdict)}"
    if not n:
        return f'<p class="verdict unsure"><b>No row is to be removed:</b> none does harm.{trust}</p>'
    return (
        f'<p class="verdict {_colour(outcome)}"><b>{share} are to be removed</b>: '
        f"<code>removed.txt</code>.{more}{trust}</p>"
    )


def _colour(outcome: Outcome) -> str:
    if not outcome.agreement.trusted:
        return "bad"
    return "good" if outcome.judgement is None or outcome.judgement.is_clear else "unsure"


def judgement_section(found: Judgement, saved: str | None, n: int) -> str:
    interval = "" if math.isnan(found.low) else f" &nbsp; [{found.low:+.3g}, {found.high:+.3g}]"
    controls = ", ".join(f"{control:+.3g}" for control in found.controls)
    where = (
        f"Mean over {found.sets} sets of latents, on held-out rows; 95&nbsp;% interval over the sets of latents. It "
        "leaves out what another start of training would do: the random removals give an idea of that."
        if found.held_out
        else "Measured by the very metric that chose the rows, so it flatters: nothing was held out."
    )
    return f"""<h2>Before and after</h2>
<table><tr><th>trained on<th class="n">metric<th class="n">change
<tr><td>all rows<td class="n">{found.before:.4g}<td class="n">
<tr><td>without the {n} removed<td class="n">{found.after:.4g}<td class="n">{found.change:+.3g}{interval}
<tr><td>without {n} random rows<td class="n"><td class="n">{controls}
</table>
<p class="note">{"Larger" if found.larger_is_better else "Smaller"} is better. {where}
The cleansed generator: <code>{saved}</code>.</p>"""


def found_section(outcome: Outcome) -> str:
    shown = outcome.demonstration
    if shown is None:
        return ""
    rows = "\n".join(
        f'<tr><td>{method}<td class="n">{precision:.2f}<td class="n">{recall:.2f}<td class="n">{after:.3f}'
        for method, precision, recall, after in shown.found
    )
    return f"""<h2>What was found of the planted rows</h2>
<table><tr><th>method<th class="n">precision<th class="n">recall<th class="n">held-out metric
<tr><td>nothing removed<td class="n"><td class="n"><td class="n">{shown.before:.3f}
{rows}
<tr><td>all planted<td class="n"><td class="n"><td class="n">{shown.clean:.3f}</table>
<p class="note">Of the rows that each method removes first, as many as were planted, {shown.planted}.
{escape(shown.in_words)}</p>"""


def picture_section(out: Path, name: str, title: str, text: str) -> str:
    path = out / name
    if not path.exists():
        return ""
    content = base64.b64encode(path.read_bytes()).decode()
    return f'<h2>{title}</h2>\n<p class="note">{text}</p>\n<img alt="{title}" src="data:image/png;base64,{content}">'


def groups_section(outcome: Outcome) -> str:
    if not outcome.groups:
        return ""
    largest = max(abs(harm) for *_, harm in outcome.groups) or 1.0
    rows = "\n".join(
        f'<tr><td>{escape(label)}<td class="n">{n}<td class="n">{removed if outcome.recommended else ""}'
        f'<td class="n">{harm:+.3g}<td><span class="bar" style="width:{abs(harm) / largest * 200:.0f}px;'
        f'background:{"#c92a2a" if harm > 0 else "#2b8a3e"}"></span>'
        for label, n, removed, harm in outcome.groups
    )
    return f"""<h2>By label</h2>
<p class="note">The sum of the rows' harm: by how much the metric would improve without all of them, to first order;
red is harmful. For a whole class that is a direction rather than a number.</p>
<table><tr><th>label<th class="n">rows<th class="n">removed<th class="n">harm<th>
{rows}</table>"""


def agreement_section(found: Agreement, settings: Settings) -> str:
    rows = "\n".join(
        f'<tr><td>{escape(str(row))}<td class="n">{estimate:+.3g}<td class="n">{truth:+.3g}'
        for row, estimate, truth in zip(found.rows, found.estimates.tolist(), found.truth.tolist(), strict=True)
    )
    return f"""<h2>Are the scores to be trusted?</h2>
<p>{len(found.rows)} rows, drawn at random, were left out one by one, and training was repeated.
{"Trusted" if found.trusted else "Not trusted"}: {escape(found.reason)}.</p>
<table><tr><td>{_scatter(found)}<td><table><tr><th>row<th class="n">estimated<th class="n">by retraining
{rows}</table></table>"""


def _scatter(found: Agreement) -> str:
    """Truth over estimate, and the line on which both are the same."""
    points = list(zip(found.estimates.tolist(), found.truth.tolist(), strict=True))
    largest = max((abs(value) for point in points for value in point), default=0.0) or 1.0
    dots = "".join(
        f'<circle cx="{150 + 120 * x / largest:.1f}" cy="{150 - 120 * y / largest:.1f}" r="4" fill="#1c5fa8"/>'
        for x, y in points
    )
    return f"""<svg width="300" height="300" role="img" aria-label="influence by retraining over estimate">
<rect x="20" y="20" width="260" height="260" fill="none" stroke="#ddd"/>
<path d="M20 280 280 20" stroke="#bbb" stroke-dasharray="4"/>
<path d="M20 150H280M150 20V280" stroke="#eee"/>{dots}<text x="150" y="296" text-anchor="middle">estimated</text>
<text x="12" y="150" text-anchor="middle" transform="rotate(-90 12 150)">by retraining</text></svg>"""


def details_section(problem: Problem, settings: Settings, outcome: Outcome) -> str:
    source = settings.folder or settings.game or settings.data
    estimator = "ITD" if settings.estimator == "itd" else f"AID, {settings.terms} terms"
    traced = f"all {problem.steps}" if outcome.last is None else f"the last {outcome.last} of {problem.steps}"
    facts = {
        "Metric": problem.metric_in_words,
        "Score": "the metric without the row, less the metric with it",
        "Data": str(source),
        "Estimator": f"{estimator}; trust and retraining over {traced} steps",
        "Seed": str(settings.seed),
        "Files": "scores.csv has every row; checkpoints/ lets the same command go on, and can be deleted",
    }
    rows = "\n".join(f"<tr><th>{name}<td>{escape(fact)}" for name, fact in facts.items())
    notes = "".join(f"<pre>{escape(note)}</pre>" for note in problem.notes)
    return f"<h2>Details</h2>\n<table>{rows}</table>{notes}"
