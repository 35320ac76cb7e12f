"""The order of work: train, score, check trust, recommend, retrain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gan_influence.harmfulness import harmful_rows, harmfulness
from gan_influence.history import digest
from gan_influence.tool.arguments import Settings
from gan_influence.tool.builtin import problem_of_images
from gan_influence.tool.demonstration import Demonstration, demonstrated
from gan_influence.tool.estimate import estimate
from gan_influence.tool.folder import CHECKPOINTS, opened, same_threads, swept
from gan_influence.tool.judging import judged, save_generator
from gan_influence.tool.outcome import Outcome
from gan_influence.tool.page import write_page
from gan_influence.tool.problem import Problem, checked_removal, is_pictures
from gan_influence.tool.scoring import advice, score, trust
from gan_influence.tool.sheets import save_sheet
from gan_influence.tool.tables import group_sums, write_removed, write_scores
from gan_influence.tool.training import trained
from gan_influence.tool.userfile import problem_of_file
from gan_influence.trace import Trace

__all__ = ["UNTRUSTED", "cleanse"]

UNTRUSTED = 3
_SHOWN = 40


def cleanse(settings: Settings) -> int:
    """Do what the command line asks for, and return the exit status.

    Raises:
        InputError, ValueError, TypeError, OSError, DivergenceError: something given is wrong, or training failed.
    """
    problem = problem_of_images(settings) if settings.game is None else problem_of_file(settings, settings.game)
    count = checked_removal(settings, problem.size)
    last = _last(problem, settings)
    if settings.estimate:
        print(estimate(problem, settings, last))
        return 0
    out = opened(settings.out)
    same_threads(out)
    print(f"{problem.size} rows, {problem.steps} steps, {problem.game.size} parameters; writing to {out}", flush=True)
    trace = trained(problem, settings, out / CHECKPOINTS)
    outcome = _scored(problem, settings, trace, last, count, out / CHECKPOINTS)
    swept(out)
    cleansed = None
    if settings.retrain and outcome.removed:
        folder = out / CHECKPOINTS / f"without-{digest(outcome.scores.new_tensor(outcome.removed))}"
        cleansed, judgement = judged(problem, settings, trace, outcome.removed, last, folder)
        print(judgement.verdict, flush=True)
        outcome = replace(outcome, judgement=judgement, saved=save_generator(cleansed, out))
    _write(out, problem, settings, outcome, trace, cleansed)
    print(f"{out / 'summary.html'} tells what was found", flush=True)
    return 0 if outcome.recommended else UNTRUSTED


def _last(problem: Problem, settings: Settings) -> int | None:
    """How many last steps are traced back; ``None`` is all."""
    last = problem.last if settings.last is None else settings.last
    return None if not last else min(last, problem.steps)


def _scored(problem: Problem, settings: Settings, trace: Trace, last: int | None, count: int, folder: Path) -> Outcome:
    scores = score(problem, settings, trace, last, folder)
    agreement = trust(problem, settings, trace, scores, last, folder)
    demonstration: Demonstration | None = None
    if problem.planted is not None:
        demonstration = demonstrated(problem, settings, trace, scores, last)
        print(demonstration, flush=True)
    print(
        f"The scores are {agreement}",
        *([] if agreement.trusted else [advice(problem, settings, last)]),
        sep="\n",
        flush=True,
    )
    recommended = agreement.trusted or settings.untrusted
    removed = harmful_rows(scores, problem.metric, count=count).tolist() if recommended else []
    harm = harmfulness(scores, problem.metric)
    groups = group_sums(problem, harm, removed)
    return Outcome(scores, harm, agreement, recommended, removed, last, groups, demonstration)


def _write(
    out: Path, problem: Problem, settings: Settings, outcome: Outcome, trace: Trace, cleansed: Trace | None
) -> None:
    write_scores(out / "scores.csv", problem, outcome.scores, outcome.harm, outcome.recommended)
    if outcome.recommended:
        write_removed(out / "removed.txt", problem, outcome.removed)
        _write_rows(out, problem, outcome)
    for name, run in (("generated.png", trace), ("generated-after.png", cleansed)):
        if run is not None and problem.latents is not None and "generator" in run.game.players:
            generated = run.players().generate(problem.latents.to(run.weights.device)).detach()
            if is_pictures(generated):
                save_sheet(out / name, generated, [])
    write_page(out, problem, settings, outcome)


def _write_rows(out: Path, problem: Problem, outcome: Outcome) -> None:
    if problem.images is None:
        return
    order = outcome.harm.argsort(descending=True, stable=True)
    for name, rows in (("harmful.png", order), ("helpful.png", order.flip(0))):
        shown_rows = rows[:_SHOWN].tolist()
        captions = [_caption(problem, row, float(outcome.scores[row])) for row in shown_rows]
        save_sheet(out / name, problem.images[shown_rows], captions)


def _caption(problem: Problem, row: int, score: float) -> list[str]:
    planted = ", planted" if problem.planted is not None and problem.planted[row] else ""
    label = "" if problem.labels is None or problem.paths is not None else f" ({problem.labels[row]})"
    return [problem.name(row) + label, f"{score:+.2g}{planted}"]
