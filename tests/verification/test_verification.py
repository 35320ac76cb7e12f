"""The ledger: complete, equal to what is recorded, and able to catch faults that are put into the core on purpose."""

import copy
import importlib
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from verification.ledger import VERDICTS, Outcome, claim, claims, differences, entry, recorded_verdicts

ROOT = Path(__file__).parents[2]
adjoint, batch, costs, game, itd, neumann, trace, updates = (
    importlib.import_module(f"gan_influence.{name}")
    for name in ("adjoint", "batch", "costs", "game", "itd", "solvers.neumann", "trace", "updates")
)  # gan_influence.itd is a function


def test_every_claim_has_a_recorded_verdict_and_every_record_a_claim():
    recorded = recorded_verdicts()
    assert recorded.keys() == claims().keys()
    assert set(recorded.values()) <= set(VERDICTS)


OWN = ("own_results", "core", "tools", "published_code")
"""Sections that are not claims of the papers."""


def test_the_readme_states_the_ledgers_counts():
    recorded, known = recorded_verdicts(), claims()

    def of(*sections, but=False):
        return Counter(v for name, v in recorded.items() if (known[name].section in sections) != but)

    papers = of(*OWN, but=True)
    stated = (ROOT / "README.md").read_text().split("<!-- ledger -->")[1].split("<!-- /ledger -->")[0]
    stated = " ".join(stated.split())
    assert papers.keys() == {"holds", "corrected"}
    assert f"Of {papers.total()} claims of the papers **{papers['holds']} hold, {papers['corrected']} are" in stated
    assert f"{of('published_code')['corrected']} of the published code" in stated
    assert f"{of('own_results').total()} results of our own" in stated
    assert f"{of('core').total()} claims on the core" in stated
    assert f"{of('tools').total()} on the ledger's own tools" in stated
    assert set(of("own_results", "core", "tools")) == {"holds"}
    assert set(of("published_code")) == {"corrected"}


def test_the_committed_ledger_has_the_recorded_verdicts():
    ledger = json.loads((ROOT / "reports" / "results" / "ledger" / "ledger.json").read_text())
    assert {one["id"]: one["verdict"] for one in ledger} == recorded_verdicts()


def test_a_claim_needs_a_name_of_its_own():
    taken = next(iter(claims()))
    with pytest.raises(ValueError, match=f"two claims are called '{taken}'"):
        claim(taken, "", "", "")(lambda preset: Outcome("holds", 0, 0))


def test_a_corrected_claim_shows_both_forms():
    with pytest.raises(ValueError, match="shows both"):
        Outcome("corrected", 1, 0)
    with pytest.raises(ValueError, match="verdict must be one of"):
        Outcome("maybe", 1, 0)


def test_the_program_writes_the_contract_and_tells_what_is_not_as_recorded(tmp_path):
    command = [sys.executable, "-m", "verification", "--preset", "smoke", "--only", "minimax-f", "block-form"]
    ran = subprocess.run([*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    ledger = json.loads((tmp_path / "ledger.json").read_text())
    assert [one["id"] for one in ledger] == ["minimax-f", "block-form"]
    keys = {"id", "source", "statement", "kind", "verdict", "measured", "expected", "tolerance", "seconds"}
    assert all(keys <= one.keys() for one in ledger)
    page = (tmp_path / "index.html").read_text()
    assert "python -m verification --only block-form" in page
    assert "<svg" in page
    printed = ran.stdout.splitlines()
    assert printed[0].split()[:3] == ["claim", "verdict", "measured"]
    assert printed[1].split()[:2] == ["minimax-f", "corrected"]


def test_a_page_of_errata_names_every_claim_of_a_paper_that_is_not_confirmed(tmp_path):
    from verification.page import ERRATA, write_errata

    folder = ROOT / "reports" / "results" / "ledger"
    ledger = json.loads((folder / "ledger.json").read_text())
    write_errata(ledger, json.loads((folder / "provenance.json").read_text()), tmp_path)
    pages = {name: (tmp_path / f"errata-{name}.md").read_text() for name in ERRATA}
    for name, text in pages.items():
        assert text == (folder / f"errata-{name}.md").read_text()
    wrong = [one["id"] for one in ledger if one["verdict"] in ("corrected", "refuted")]
    assert [name for name in wrong if sum(f"(`{name}`)" in text for text in pages.values()) != 1] == []
    assert all(text.count("*Control:*") == text.count("*Witness:*") for text in pages.values())

    found = [dict(one) for one in ledger]
    assert differences(found) == []
    found[0]["verdict"], found[1]["tolerance"] = "holds", 1.0
    assert differences(found) == [
        f"minimax-f: verdict holds (measured {ledger[0]['measured']}), but recorded as corrected",
        f"{ledger[1]['id']}: tolerance 1.0, but recorded as {ledger[1]['tolerance']}",
    ]


def test_an_unknown_claim_is_named():
    ran = subprocess.run(
        [sys.executable, "-m", "verification", "--only", "nonsense"], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 2
    assert "unknown claim nonsense" in ran.stderr


# Faults: each breaks the core in one place; the ledger must notice, and name a claim.


def flip_the_sign_of_dv(patch):
    right = adjoint.FieldGraph._differentiate

    def wrong(self, inputs, cotangent, retain_graph):
        parts = right(self, inputs, cotangent, retain_graph)
        return tuple(-part if leaf is self.weights else part for part, leaf in zip(parts, inputs, strict=True))

    patch.setattr(adjoint.FieldGraph, "_differentiate", wrong)


def drop_the_off_diagonal_block(patch):
    right = game.Game.losses

    def wrong(self, parts, batch, *rest):
        if len(self.players) < 2:
            return right(self, parts, batch, *rest)
        phi, psi = self.split(parts) if isinstance(parts, torch.Tensor) else parts
        found, held = right(self, (phi, psi), batch, *rest)
        if "generator" in found:
            found["generator"] = right(self, (phi, psi.detach()), batch, *rest)[0]["generator"]
        return found, held

    patch.setattr(game.Game, "losses", wrong)


def use_z_instead_of_its_transpose(patch):
    right = adjoint.FieldGraph.both

    def wrong(self, cotangent):
        _, rows = right(self, cotangent)
        v = lambda theta: torch.cat(  # noqa: E731
            self.game.field(self.game.split(theta), *self.seen, create_graph=True)[0], dim=-1
        )
        theta = torch.cat(self.leaves).detach()
        stacked = cotangent.reshape(-1, cotangent.shape[-1])
        products = [torch.autograd.functional.jvp(v, theta, one)[1] for one in stacked]
        return torch.stack(products).reshape(cotangent.shape), rows

    build = adjoint.FieldGraph.__init__

    def remember(self, game, theta, *seen):
        build(self, game, theta, *seen)
        self.seen = seen

    patch.setattr(adjoint.FieldGraph, "__init__", remember)
    patch.setattr(adjoint.FieldGraph, "both", wrong)


def read_off(patch, other):
    right = neumann.Neumann.counts.fget
    patch.setattr(neumann.Neumann, "counts", property(lambda self: tuple(other(count) for count in right(self))))


def one_term_more(patch):
    read_off(patch, lambda count: count + 1)


def one_term_less(patch):
    read_off(patch, lambda count: max(count - 1, 1))


def update_before_scoring(patch):
    def wrong(right, cotangent):
        after, _ = right(cotangent)
        _, rows = right(after)
        return after, rows

    pull_back_through(patch, wrong)


def pull_back_through(patch, wrong):
    build = adjoint.linearise

    def linearise(*args):
        state, _ = build(*args)

        def again(cotangent):
            return build(*args)[1](cotangent)

        return state, lambda cotangent: wrong(again, cotangent)

    patch.setattr(adjoint, "linearise", linearise)


def wrong_denominator(patch):
    patch.setattr(costs, "mean", lambda of_rows: of_rows.sum() / (len(of_rows) - 1))
    patch.setattr(importlib.import_module("gan_influence.gans"), "mean", costs.mean)


def damping_with_the_wrong_sign(patch):
    right = adjoint.linearise
    patch.setattr(
        adjoint,
        "linearise",
        lambda game, updates, phases, damping, *rest: right(game, updates, phases, -damping, *rest),
    )


def stale_parameters(patch):
    right = trace.Trace.state
    patch.setattr(
        trace.Trace, "state", lambda self, step=-1: right(self, min(step + 1, self.steps) if step >= 0 else step)
    )


def forget_the_first_step(patch):
    right = trace.Trace.window
    patch.setattr(trace.Trace, "window", lambda self, last: min(right(self, last) + 1, self.steps))


def forget_the_regulariser(patch):
    right = game.Game.losses

    def wrong(self, *arguments, **moving):
        bare = copy.copy(self)
        bare.l2 = dict.fromkeys(self.l2, 0.0)
        return right(bare, *arguments, **moving)

    patch.setattr(game.Game, "losses", wrong)


def swap_the_learning_rates(patch):
    build = updates.Updates.__init__

    def wrong(self, optimizer, *rest):
        build(self, optimizer[::-1] if isinstance(optimizer, tuple) else optimizer, *rest)

    patch.setattr(updates.Updates, "__init__", wrong)


def spread_the_scores_over_the_rows(patch):
    patch.setattr(batch.Inputs, "add_to_rows", lambda self, per_row, terms: per_row.__iadd__(terms.mean()))


def do_not_pull_the_average_back(patch):
    right = updates.Updates.__call__

    def wrong(self, phase, time, state, gradient):
        after = right(self, phase, time, state, gradient)
        return after if not self.decays else torch.cat([after[..., :-1, :], after[..., -1:, :].detach()], dim=-2)

    patch.setattr(updates.Updates, "__call__", wrong)


def show_the_generator_the_old_discriminator(patch):
    patch.setattr(
        updates.Updates,
        "phases",
        lambda self, t: (updates.Phase(self.cycle[0][0].moving | self.cycle[0][-1].moving, True),),
    )


def freeze_the_second_moment_unasked(patch):
    for name in ("rmsprop", "adam"):
        module = importlib.import_module(f"gan_influence.optimizers.{name}")
        patch.setattr(module, "moment", lambda second, how: second.detach())


def start_turns_with_the_generator(patch):
    patch.setattr(updates.Updates, "phases", lambda self, t, right=updates.Updates.phases: right(self, t + 1))


FAULTS = {
    flip_the_sign_of_dv: ("eq10-recursion", "algorithm-1", "aid-series"),
    drop_the_off_diagonal_block: ("two-steps-to-the-generator", "block-form"),
    use_z_instead_of_its_transpose: ("algorithm-1", "one-sweep-for-all"),
    one_term_more: ("aid-series",),
    one_term_less: ("aid-series",),
    update_before_scoring: ("eq10-recursion", "algorithm-1"),
    wrong_denominator: ("agd-step", "counterfactual-agd"),
    damping_with_the_wrong_sign: ("damped-itd-finite-differences",),
    stale_parameters: ("eq10-recursion", "minibatch"),
    forget_the_first_step: ("eq10-recursion", "sgd-influence"),
    forget_the_regulariser: ("agd-step",),
    swap_the_learning_rates: ("asgd-influence",),
    spread_the_scores_over_the_rows: ("eq10-recursion", "one-sweep-for-all"),
    do_not_pull_the_average_back: ("averaged-generator", "practical-training"),
    show_the_generator_the_old_discriminator: ("alternating-as-zeroed-rates", "practical-training"),
    freeze_the_second_moment_unasked: ("rmsprop-estimator", "practical-training"),
    start_turns_with_the_generator: ("alternating-as-zeroed-rates",),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_ledger_catches_the_fault_and_names_the_claim(fault, monkeypatch):
    fault(monkeypatch)
    for name in FAULTS[fault]:
        found = entry(name, "smoke")
        assert found["verdict"] == "refuted", f"{name}: {found['verdict']}, {found['measured']}"
