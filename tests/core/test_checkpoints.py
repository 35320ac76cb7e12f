"""Checkpointed runs: the bits of runs that keep every state, in less memory, through kills and bad disks."""

import errno
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import warnings
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from support.games import OPTIMIZERS, ORDERS, EpochBatches, lqgan, minibatch_mlp, normal, same_bits
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

import gan_influence as gi
from gan_influence.losses import RowLoss

STEPS = 11
PLACES = {"memory": False, "folder": True}
each_place = pytest.mark.parametrize("in_files", PLACES.values(), ids=PLACES)
each_way = pytest.mark.parametrize("keep_graphs", [False, True], ids=["twice", "graphs-kept"])
each_order = pytest.mark.parametrize("order", ORDERS)


def train(memory="full", order="alternating", name="adam", steps=STEPS, problem=None, **options):
    problem = problem or minibatch_mlp()
    settings = {"optimizer": OPTIMIZERS[name][0], "update": order, "ema_decay": 0.9} | options
    return problem.train(steps, memory=memory, **settings)


def scores_of(trace, **options):
    return gi.itd(trace, minibatch_mlp().metric(), **options)


@lru_cache
def full(order="alternating", name="adam"):
    """The same run with every state kept."""
    return train("full", order, name)


@lru_cache
def scores_from_full_memory(order="alternating", name="adam"):
    return scores_of(full(order, name))


def files(folder, pattern="state-*.pt"):
    return sorted(path.name for path in Path(folder).glob(pattern))


@pytest.mark.bits
@each_way
@each_place
@each_order
@pytest.mark.parametrize("name", ["adam", "momentum-and-rmsprop-centered"])
def test_scores_have_the_bits_of_those_from_full_memory(name, order, in_files, keep_graphs, tmp_path):
    checkpoint = gi.Checkpoint(every=3, folder=tmp_path if in_files else None, keep_graphs=keep_graphs)
    kept = train(checkpoint, order, name)
    assert same_bits(scores_of(kept), scores_from_full_memory(order, name))
    assert files(tmp_path) == [f"state-{t:010d}.pt" for t in (3, 6, 9, 11) if in_files]


@pytest.mark.bits
@each_way
@each_order
@pytest.mark.parametrize("options", [{"at": [5, 11, 0, 9]}, {"damping": 0.3, "last": 7}], ids=str)
def test_several_stops_damping_and_windows_have_the_same_bits(options, order, keep_graphs):
    kept = train(gi.Checkpoint(every=3, keep_graphs=keep_graphs), order)
    assert same_bits(scores_of(kept, **options), scores_of(full(order), **options))


@pytest.mark.bits
@each_way
@each_place
@pytest.mark.parametrize("every", [None, 1, 4, STEPS - 1, STEPS, STEPS + 5])
def test_every_interval_gives_the_same_bits(every, in_files, keep_graphs, tmp_path):
    kept = train(gi.Checkpoint(every=every, folder=tmp_path if in_files else None, keep_graphs=keep_graphs))
    assert same_bits(scores_of(kept), scores_from_full_memory())
    for t in (7, 2, 11, 0, 3, -1, -3):
        assert same_bits(kept.state(t), full().state(t))


@pytest.mark.bits
@pytest.mark.parametrize("steps", [0, 1, 2])
@each_place
def test_the_shortest_runs(steps, in_files, tmp_path):
    kept, every_state = (
        train(memory, steps=steps) for memory in (gi.Checkpoint(folder=tmp_path if in_files else None), "full")
    )
    assert same_bits(kept.state(), every_state.state())
    assert same_bits(scores_of(kept), scores_of(every_state))


@pytest.mark.bits
@pytest.mark.parametrize("last", [0, 1, 3, 4, 5, STEPS])
@each_way
def test_windows_that_begin_between_checkpoints(last, keep_graphs):
    kept = train(gi.Checkpoint(every=4, keep_graphs=keep_graphs))
    assert same_bits(scores_of(kept, last=last), scores_of(full(), last=last))


@pytest.mark.bits
@each_place
def test_everything_else_that_uses_a_trace_gives_the_same_bits(in_files, tmp_path):
    metric = minibatch_mlp().metric()
    kept = train(gi.Checkpoint(every=4, folder=tmp_path if in_files else None))
    for use in (
        lambda trace: gi.aid(trace, metric, terms=[2, 7], at=[3, 11]),
        lambda trace: gi.counterfactual(trace, metric, [[3], [4, 9]], at=[6, 11]),
        lambda trace: gi.counterfactual(trace, metric, [[3]], last=5),
        lambda trace: gi.retrain(trace, [2], last=6).states,
        lambda trace: gi.itd(gi.retrain(trace, [2], memory="checkpoint"), metric),
        lambda trace: metric(trace),
        lambda trace: trace.seen(5),
    ):
        assert same_bits(use(kept), use(full()))


@pytest.mark.bits
def test_a_retraining_may_keep_checkpoints_in_a_folder_of_its_own(tmp_path):
    trace = train(gi.Checkpoint(every=4, folder=tmp_path / "factual"))
    window = gi.retrain(trace, [2], last=6, memory=gi.Checkpoint(every=4, folder=tmp_path / "without-2"))
    assert files(tmp_path / "without-2") == ["state-0000000009.pt", "state-0000000011.pt"]
    assert same_bits(scores_of(window), scores_of(gi.retrain(full(), [2], last=6)))
    with pytest.raises(ValueError, match=r"differs in steps was 0 to 11, is 5 to 11; weights was "):
        gi.retrain(trace, [2], last=6, memory=gi.Checkpoint(every=4, folder=tmp_path / "factual"))


@each_place
def test_a_pickled_trace_keeps_its_scores(in_files, tmp_path):
    trace = train(gi.Checkpoint(every=4, folder=tmp_path if in_files else None))
    trace.state(6)
    copy = pickle.loads(pickle.dumps(trace))
    assert same_bits(scores_of(copy), scores_of(trace))


def test_a_checkpointed_run_cannot_hand_out_all_states_at_once():
    with pytest.raises(ValueError, match=r"keeps checkpoints only: ask for one state at a time, with trace.state\(st"):
        _ = train("checkpoint").states


def test_steps_outside_a_checkpointed_run_are_errors():
    with pytest.raises(IndexError, match="step 12 is not in this trace, which holds steps 0 to 11"):
        train("checkpoint").state(12)


# ----------------------------------------------------------------------------------------------------------- memory


class StatesAlive(TorchDispatchMode):
    """The most copies of a run's states that were in memory at once.

    Every storage that ever held a tensor shaped like states is watched until it is freed, whoever holds it, and
    compared with the states' bits whenever there is a new one.
    """

    def __init__(self, states):
        super().__init__()
        self.shape, self.bytes = states.shape[1:], states[0].nbytes
        self.bits = {state.numpy().tobytes() for state in states}
        self.watched = {}
        self.most = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.shape[-2:] == self.shape:
                self.watch(tensor.untyped_storage())
        return result

    def watch(self, storage):
        ref = StorageWeakRef(storage)
        if ref in self.watched and not self.watched[ref][0].expired():
            return
        self.watched[ref] = ref, storage.nbytes() // self.bytes
        self.watched = {ref: held for ref, held in self.watched.items() if not ref.expired()}
        if sum(room for _, room in self.watched.values()) > self.most:
            self.most = max(self.most, self.count())

    def count(self):
        alive = 0
        for ref in self.watched:
            storage = torch.UntypedStorage._new_with_weak_ptr(ref.cdata)
            content = torch.empty(0, dtype=torch.uint8).set_(storage).numpy().tobytes()
            alive += sum(content[at : at + self.bytes] in self.bits for at in range(0, len(content), self.bytes))
        return alive


LONGER = {"name": "momentum", "steps": 100, "order": "simultaneous"}


@lru_cache
def longer_run():
    """A run that keeps all states, and how many were alive."""
    states = train("full", **LONGER).states
    with StatesAlive(states) as alive:
        train("full", **LONGER)
    return states, alive.most


@each_way
def test_at_most_2_2_roots_of_t_states_are_alive(keep_graphs, monkeypatch):
    # T / k + k + 2 of them: below T = 100 the 2 would be too much.
    monkeypatch.setattr("gan_influence.replay.recorded._EAGER_CALLS", 10**9)
    states, all_of_them = longer_run()
    with StatesAlive(states) as alive:
        scores_of(train(gi.Checkpoint(keep_graphs=keep_graphs), **LONGER))
    assert all_of_them > 100  # it counts them
    assert alive.most <= 2.2 * math.sqrt(100)


def test_in_a_folder_no_more_states_are_alive_than_a_segment_has(tmp_path, monkeypatch):
    monkeypatch.setattr("gan_influence.replay.recorded._EAGER_CALLS", 10**9)
    with StatesAlive(longer_run()[0]) as alive:
        scores_of(train(gi.Checkpoint(folder=tmp_path), **LONGER))
    assert alive.most <= 10 + 4


# ------------------------------------------------------------------------------------------------------------ kills


class Watched:
    """Minibatches that remember which steps they were asked for, and may end the run when they are.

    A run in a folder asks for every step once before it begins, for its fingerprint, and for the last once more after.
    """

    def __init__(self, die=None, at=None):
        self.asked, self.die, self.at = [], die, at

    def __call__(self, t):
        self.asked.append(t)
        if self.at == (t, self.asked.count(t)):
            self.die()
        return EpochBatches(14, 5, (2,), seed=3)(t)


class KilledError(BaseException):
    pass


def killed():
    raise KilledError


def killed_for_real():
    os.kill(os.getpid(), signal.SIGKILL)


def watched_run(folder, schedule, keep_graphs=False, steps=20):
    problem = minibatch_mlp(schedule=schedule)
    return train(gi.Checkpoint(every=4, folder=folder, keep_graphs=keep_graphs), problem=problem, steps=steps)


def in_another_process(folder, step, times):
    """Train and sweep there, until ``step`` is asked for that many times."""
    program = (
        "import torch, test_checkpoints as t; torch.set_num_threads(1); "
        f"t.scores_of(t.watched_run({str(folder)!r}, t.Watched(t.killed_for_real, ({step}, {times}))))"
    )
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), str(Path(gi.__file__).parents[1])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False).returncode


@pytest.mark.bits
def test_a_run_killed_while_training_and_killed_again_while_sweeping_ends_with_the_same_bits(tmp_path):
    expected = scores_of(watched_run(tmp_path / "undisturbed", Watched()))
    assert in_another_process(tmp_path / "run", 13, 2) == -signal.SIGKILL
    assert files(tmp_path / "run") == [f"state-{t:010d}.pt" for t in (4, 8, 12)]
    # It goes on at 12; in the sweep 9 is asked for in a replay, then for its own pull-back.
    assert in_another_process(tmp_path / "run", 9, 3) == -signal.SIGKILL
    assert len(files(tmp_path / "run")) == 5
    assert len(files(tmp_path / "run", "sweep-*.pt")) == 1
    schedule = Watched()
    assert same_bits(scores_of(watched_run(tmp_path / "run", schedule)), expected)
    again = schedule.asked[schedule.asked.index(19) + 1 :]
    assert max(again) == 11  # training and the sweep above 12 are not repeated
    assert files(tmp_path / "run", "sweep-*.pt") == []


@pytest.mark.bits
@pytest.mark.parametrize("step", [5, 12, 19])
def test_training_goes_on_from_the_last_checkpoint(step, tmp_path):
    first, second = Watched(killed, (step, 2)), Watched()
    with pytest.raises(KilledError):
        watched_run(tmp_path / "run", first)
    trace = watched_run(tmp_path / "run", second)
    went_on = step - step % 4
    assert second.asked[second.asked.index(19) + 1 :] == [*range(went_on, 20), 19]
    undisturbed = watched_run(tmp_path / "other", Watched())
    assert same_bits(trace.state(), undisturbed.state())
    assert same_bits(scores_of(trace), scores_of(undisturbed))


@pytest.mark.bits
@each_way
@pytest.mark.parametrize("options", [{}, {"at": [20, 9, 14]}, {"last": 15}, {"damping": 0.2}], ids=str)
def test_a_sweep_goes_on_from_its_last_segment(options, keep_graphs, tmp_path):
    undisturbed = scores_of(watched_run(tmp_path / "other", Watched(), keep_graphs), **options)
    schedule = Watched(killed, (9, 5 if "at" in options else 3))  # for several stops looked at twice more
    with pytest.raises(KilledError):
        scores_of(watched_run(tmp_path / "run", schedule, keep_graphs), **options)
    schedule = Watched()
    trace = watched_run(tmp_path / "run", schedule, keep_graphs)
    schedule.asked.clear()
    assert same_bits(scores_of(trace, **options), undisturbed)
    assert not {16, 17, 18, 19} & set(schedule.asked)
    assert files(tmp_path / "run", "sweep-*.pt") == []


def test_the_sweep_of_another_metric_damping_or_window_does_not_take_over_what_a_killed_one_left(tmp_path):
    schedule = Watched(killed, (9, 3))
    with pytest.raises(KilledError):
        scores_of(watched_run(tmp_path, schedule), damping=0.1)
    assert len(files(tmp_path, "sweep-*.pt")) == 1
    trace, undisturbed = watched_run(tmp_path, Watched()), watched_run(None, Watched())
    other = gi.metrics.AverageLogLikelihood(normal(40, 5, 2), normal(41, 5, 2))
    assert same_bits(gi.itd(trace, other), gi.itd(undisturbed, other))
    for options in ({"damping": 0.1 + 1e-12}, {"damping": 0.1, "last": 19}, {"damping": 0.1, "at": [19]}):
        assert same_bits(scores_of(trace, **options), scores_of(undisturbed, **options))
    assert len(files(tmp_path, "sweep-*.pt")) == 1
    assert same_bits(scores_of(trace), scores_of(undisturbed))


def test_a_finished_run_is_not_trained_again(tmp_path):
    once, again = Watched(), Watched()
    first = watched_run(tmp_path, once)
    second = watched_run(tmp_path, again)
    assert len(once.asked) - len(again.asked) == 20 + 1
    assert same_bits(first.state(), second.state())


def test_what_a_kill_left_half_written_is_ignored(tmp_path):
    expected = train(gi.Checkpoint(every=4, folder=tmp_path)).state()
    (tmp_path / "state-0000000011.pt").rename(tmp_path / ".state-0000000011.pt.x7f3")
    assert same_bits(train(gi.Checkpoint(every=4, folder=tmp_path)).state(), expected)


@pytest.mark.parametrize("steps", [30, 100])
def test_a_run_that_diverged_names_the_same_step_when_it_is_started_again(steps, tmp_path):
    problem = lqgan(loss="wasserstein", rates=(1e60, 1e60))
    messages = []
    for _ in range(2):
        with pytest.raises(gi.DivergenceError) as caught:
            problem.train(steps, memory=gi.Checkpoint(every=3, folder=tmp_path))
        messages.append((caught.value.step, caught.value.player, str(caught.value)))
    assert messages[0] == messages[1]


# ------------------------------------------------------------------------------------------------------- bad folders


def full_disk(monkeypatch, after):
    """``fsync`` fails for want of space once it has been called ``after`` times."""
    calls, fsync = [], os.fsync

    def failing(handle):
        calls.append(handle)
        if len(calls) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", failing)


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_full_folder_is_named_and_what_it_holds_stays_usable(after, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        full_disk(patched, after)
        message = r"cannot write .* to the folder .*: No space left on device. Make room or give another"
        with pytest.raises(OSError, match=message) as caught:
            train(gi.Checkpoint(every=4, folder=tmp_path))
    assert caught.value.errno == errno.ENOSPC
    assert len(list(tmp_path.iterdir())) == after  # nothing half written
    assert same_bits(scores_of(train(gi.Checkpoint(every=4, folder=tmp_path))), scores_from_full_memory())


def test_a_sweep_whose_folder_is_full_goes_on_when_there_is_room(tmp_path, monkeypatch):
    trace = train(gi.Checkpoint(every=4, folder=tmp_path))
    with monkeypatch.context() as patched:
        full_disk(patched, after=1)
        with pytest.raises(OSError, match=r"cannot write sweep-.*: No space left on device"):
            scores_of(trace)
    assert same_bits(scores_of(trace), scores_from_full_memory())


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", "/proc/nowhere"):
        with pytest.raises(OSError, match=rf"cannot write run.json to the folder {folder}: .*give another"):
            train(gi.Checkpoint(folder=folder))


def test_a_folder_is_made_with_those_above_it(tmp_path):
    train(gi.Checkpoint(every=4, folder=str(tmp_path / "a" / "b")))
    assert len(files(tmp_path / "a" / "b")) == 3


class Scaled(nn.Module):
    """A generator with constants of every kind."""

    def __init__(self, frozen=1.0, buffer=1.0, unsaved=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(2, 2).double()
        self.frozen = nn.Parameter(torch.tensor(frozen, dtype=torch.float64), requires_grad=False)
        self.register_buffer("constant", torch.tensor(buffer, dtype=torch.float64))
        self.register_buffer("unsaved", torch.tensor(unsaved, dtype=torch.float64), persistent=False)

    def forward(self, latents):
        return self.frozen * self.constant * self.unsaved * self.layer(latents)


def of_scale(**constants):
    return {"generator": Scaled(**constants)}


def moved(module):
    """Another start: the same module, one of its parameters moved by a rounding error."""
    next(module.parameters()).data[0, 0] *= 1 + 1e-15
    return module


HALF = RowLoss(real=lambda a: -a / 2, fake=lambda a: a / 2, generator=lambda a: -a)
THIRD = RowLoss(real=lambda a: -a / 3, fake=lambda a: a / 3, generator=lambda a: -a)
SETTINGS = {  # of two runs: what is set differently, on the problem or the training, and what the message is to say
    "data": ({}, {"data": minibatch_mlp().data * (1 + 1e-15)}, "data was"),
    "seed": ({}, {"schedule": gi.Minibatches(14, 5, (2,), seed=4)}, "schedule was"),
    "batch-size": ({}, {"schedule": gi.Minibatches(14, 6, (2,), seed=3)}, "schedule was"),
    "latents": (
        {"schedule": gi.FullBatch(normal(2, 5, 2))},
        {"schedule": gi.FullBatch(normal(3, 5, 2))},
        "schedule was",
    ),
    "learning-rate": ({"optimizer": gi.SGD(0.1)}, {"optimizer": gi.SGD(0.2)}, r"optimizer was SGD\(.*lr=0.1.*lr=0.2"),
    "one-players-rate": (
        {"optimizer": (gi.SGD(0.1), gi.SGD(0.1))},
        {"optimizer": (gi.SGD(0.1), gi.SGD(0.2))},
        r"optimizer was SGD",
    ),
    "rate-of-schedule": (
        {"optimizer": gi.SGD(gi.InverseSqrt(0.1))},
        {"optimizer": gi.SGD(gi.InverseSqrt(0.2))},
        "optimizer was",
    ),
    "schedule-of-rates": ({"optimizer": gi.SGD(0.1)}, {"optimizer": gi.SGD(gi.InverseSqrt(0.1))}, "optimizer was"),
    "momentum": (
        {"optimizer": gi.SGD(0.1, momentum=0.8)},
        {"optimizer": gi.SGD(0.1, momentum=0.9)},
        "optimizer was .*momentum=0.8.*momentum=0.9",
    ),
    "optimizer": ({"optimizer": gi.Adam(0.1)}, {"optimizer": gi.AdamW(0.1, weight_decay=0.0)}, "optimizer was Adam"),
    "loss": ({}, {"loss": "hinge"}, "loss was RowLoss.*hinge"),
    "loss-of-ones-own": ({"loss": HALF}, {"loss": THIRD}, "loss was"),
    "rate-of-ones-own": (
        {"optimizer": gi.SGD(lambda step: 0.1 + 0 * step)},
        {"optimizer": gi.SGD(lambda step: 0.2 + 0 * step)},
        "optimizer was",
    ),
    "l2": ({}, {"l2": (0.3, 0.25)}, r"l2 was \(0.3, 0.2\), is \(0.3, 0.25\)"),
    "steps": ({}, {"steps": 12}, "steps was 0 to 11, is 0 to 12"),
    "every": ({}, {"every": 5}, "every was 4, is 5"),
    "update": ({}, {"update": "turns"}, "update was alternating, is turns"),
    "no-average": ({}, {"ema_decay": None}, "ema_decay was 0.9, is None"),
    "average": ({}, {"ema_decay": 0.99}, "ema_decay was 0.9, is 0.99"),
    "weights": ({}, {"weights": torch.ones(14).index_fill(0, torch.tensor([3]), 0.0)}, "weights was"),
    "initial-parameters": ({}, {"discriminator": moved(minibatch_mlp().discriminator)}, "initial state was"),
    "modules": (
        {},
        {
            "discriminator": nn.Sequential(
                *minibatch_mlp().discriminator[:1], nn.Tanh(), minibatch_mlp().discriminator[2]
            )
        },
        "modules was .*Softplus.*Tanh",
    ),
    "frozen-parameter": (of_scale(), of_scale(frozen=1.1), "constants was"),
    "buffer": (of_scale(), of_scale(buffer=1.1), "constants was"),
    "buffer-that-is-not-saved": (of_scale(), of_scale(unsaved=1.1), "constants was"),
}
OF_TRAINING = ("optimizer", "update", "ema_decay", "weights", "steps")


def run_with(folder, every=4, **settings):
    of_training = {name: value for name, value in settings.items() if name in OF_TRAINING}
    of_problem = {name: value for name, value in settings.items() if name not in OF_TRAINING}
    return train(gi.Checkpoint(every=every, folder=folder), problem=minibatch_mlp(**of_problem), **of_training)


@pytest.mark.parametrize(("settings", "changes", "message"), SETTINGS.values(), ids=SETTINGS)
def test_another_runs_folder_is_refused_and_the_difference_named(settings, changes, message, tmp_path):
    run_with(tmp_path, **settings)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=rf"holds another run, which differs in .*{message}.*a folder of its own"):
        run_with(tmp_path, **(settings | changes))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    run_with(tmp_path, **settings)


def test_another_type_is_another_run(tmp_path):
    run_with(tmp_path)
    problem = minibatch_mlp()
    single = {role: getattr(problem, role).float() for role in ("generator", "discriminator")}
    with pytest.raises(ValueError, match=r"data type was torch.float64, is torch.float32"):
        run_with(tmp_path, **single, data=problem.data.float())


def test_only_what_differs_is_named(tmp_path):
    run_with(tmp_path)
    with pytest.raises(ValueError, match="holds another run") as caught:
        run_with(tmp_path, l2=(0.3, 0.25))
    assert str(caught.value).count(" was ") == 1


def test_whether_graphs_are_kept_is_no_property_of_the_run(tmp_path):
    run_with(tmp_path)
    trace = train(gi.Checkpoint(every=4, folder=tmp_path, keep_graphs=True))
    assert same_bits(scores_of(trace), scores_from_full_memory())


def test_checkpoints_of_unknown_origin_are_refused(tmp_path):
    run_with(tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match=r"holds checkpoints without their run.json: give another folder, or empty"):
        run_with(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"no"'])
def test_a_damaged_record_of_the_run_is_refused(text, tmp_path):
    run_with(tmp_path)
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run.json is damaged .*give another checkpoint folder, or empty it"):
        run_with(tmp_path)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_schedule_is_asked_for_the_steps_of_the_run_only(steps, tmp_path):
    batches = [minibatch_mlp().schedule(t) for t in range(steps)]
    problem = minibatch_mlp(schedule=lambda t: batches[t])
    trace = train(gi.Checkpoint(folder=tmp_path), problem=problem, steps=steps)
    assert same_bits(scores_of(trace), scores_of(train("full", steps=steps)))


def test_a_folder_with_other_files_is_used_beside_them(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    run_with(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert json.loads((tmp_path / "run.json").read_text())["every"] == "4"


# ----------------------------------------------------------------------------------------------------- damaged files


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "one-bit": (flipped, "is damaged: its checksum is wrong"),
    "checksum": (lambda path: path.write_bytes(b"?" + path.read_bytes()[1:]), "is damaged: its checksum is wrong"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:50]), "is damaged: its checksum is wrong"),
    "empty": (lambda path: path.write_bytes(b""), "is damaged: its checksum is wrong"),
    "missing": (lambda path: path.unlink(), "cannot be read: No such file"),
}
each_damage = pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)


DAMAGED = [(name, [4, 8, 11]) for name in DAMAGES] + [("one-bit", [8]), ("missing", [11])]


@pytest.mark.bits
@each_way
@pytest.mark.parametrize(("name", "steps"), DAMAGED)
def test_damaged_checkpoints_are_computed_again_said_aloud_and_repaired(name, steps, keep_graphs, tmp_path):
    damage, message = DAMAGES[name]
    trace = train(gi.Checkpoint(every=4, folder=tmp_path, keep_graphs=keep_graphs))
    paths = [tmp_path / f"state-{step:010d}.pt" for step in steps]
    before = [path.read_bytes() for path in paths]
    for path in paths:
        damage(path)
    with pytest.warns(RuntimeWarning, match=rf"{message}.*: it is computed again, from step \d") as said:
        scores = scores_of(trace)
    assert len(said) == len(steps)
    assert all(str(path) in "".join(str(warning.message) for warning in said) for path in paths)
    assert same_bits(scores, scores_from_full_memory())
    assert [path.read_bytes() for path in paths] == before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same_bits(scores_of(trace), scores)


@pytest.mark.bits
@each_damage
def test_training_that_goes_on_repairs_a_damaged_checkpoint(damage, message, tmp_path):
    train(gi.Checkpoint(every=4, folder=tmp_path))
    path = tmp_path / "state-0000000008.pt"
    before = path.read_bytes()
    damage(path)
    if path.exists():
        with pytest.warns(RuntimeWarning, match=rf"state-0000000008.pt {message}.*from step 4"):
            trace = train(gi.Checkpoint(every=4, folder=tmp_path))
    else:
        trace = train(gi.Checkpoint(every=4, folder=tmp_path))
    assert path.read_bytes() == before
    assert same_bits(scores_of(trace), scores_from_full_memory())


def test_a_sweep_whose_file_is_damaged_starts_over(tmp_path):
    with pytest.raises(KilledError):
        scores_of(watched_run(tmp_path, Watched(killed, (9, 3))))
    (sweep,) = tmp_path.glob("sweep-*.pt")
    flipped(sweep)
    with pytest.warns(RuntimeWarning, match=r"sweep-.* is damaged: its checksum is wrong: the sweep starts over"):
        scores = scores_of(watched_run(tmp_path, Watched()))
    assert same_bits(scores, scores_of(watched_run(None, Watched())))


@each_way
def test_a_replay_that_leads_elsewhere_is_an_error(keep_graphs):
    noise = []

    def schedule(t):  # a function of the step, until training has ended
        return gi.Batch(torch.arange(14), normal(t, 14, 2) + len(noise))

    trace = train(gi.Checkpoint(every=4, keep_graphs=keep_graphs), problem=minibatch_mlp(schedule=schedule))
    noise.append(1)
    with pytest.raises(RuntimeError, match=r"a replay up to step \d+ did not lead to the state that training kept"):
        scores_of(trace)


@pytest.mark.parametrize("every", [0, -1, 2.5, True, "4"])
def test_an_interval_is_a_number_of_steps(every):
    with pytest.raises(ValueError, match=r"every must be a number of steps >= 1, or None for about sqrt\(T\), got "):
        gi.Checkpoint(every=every)


@pytest.mark.parametrize("memory", ["disk", None, 4])
@pytest.mark.parametrize("use", [train, lambda memory: gi.retrain(train(), [1], memory=memory)])
def test_an_unknown_memory_is_told_the_known_ones(memory, use):
    with pytest.raises(ValueError, match=r'memory must be "full", "checkpoint" or a gi.Checkpoint\(...\), got'):
        use(memory=memory)
