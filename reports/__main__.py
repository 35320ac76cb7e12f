"""``python -m reports``: run the papers' experiments and write the report."""

from __future__ import annotations

import argparse
import errno
import sys
from pathlib import Path

from tqdm import tqdm

from reports.data import DIGITS, on_digits, on_own_files
from reports.experiments import EXPERIMENTS
from reports.shared.data import CHECKPOINT, FEATURES, OPTIONS, VARIABLE, ensure_files, use_data_folder, use_file
from reports.shared.provenance import program, resolve_device
from reports.shared.store import ensure_writable


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    unknown = [name for name in arguments.experiments if name not in EXPERIMENTS]
    if unknown:
        parser.error(f"unknown experiment {', '.join(unknown)}; known experiments: {', '.join(EXPERIMENTS)}")
    if arguments.list:
        for experiment in EXPERIMENTS.values():
            print(f"{experiment.name:20} {experiment.title} ({experiment.source})")
        return 0
    from reports.merging import ensure_mergeable, merge
    from reports.page import write_experiment, write_page
    from reports.recheck import recheck
    from reports.runner import run
    from reports.shared.workers import cluster, processes

    ensure_writable(arguments.out)
    names = arguments.experiments or [
        name for name, experiment in EXPERIMENTS.items() if arguments.preset in experiment.unnamed
    ]
    experiments = {name: EXPERIMENTS[name] for name in names}
    if arguments.data == DIGITS:
        experiments = {name: on_digits(experiment) for name, experiment in experiments.items()}
    else:
        use_data_folder(arguments.data)
    given = {file: getattr(arguments, option) for file, option in OPTIONS.items()}
    read = {file for one in experiments.values() for file in one.files(one.presets[arguments.preset].settings, ())}
    for file, path in given.items():
        if path is not None and file not in read:
            parser.error(
                f"--{OPTIONS[file]} {path}: {', '.join(names)} at --preset {arguments.preset} reads no such file; the "
                "experiments on StyleGAN do at --preset paper"
            )
        use_file(file, path)
    ensure_mergeable(arguments.merge, names, arguments.out)
    for name, experiment in experiments.items():
        preset = experiment.presets[arguments.preset]
        ensure_files(
            experiment.files(preset.settings, arguments.seeds or range(preset.seeds)),
            f"{name} at --preset {arguments.preset}",
            otherwise="choose another preset" if experiment.on_digits is None else f"take --data {DIGITS}",
        )
    experiments = {name: on_own_files(experiment, arguments.preset) for name, experiment in experiments.items()}
    device = resolve_device(arguments.device)
    if arguments.recheck:
        return recheck(experiments, arguments.out, device)
    if arguments.scheduler and arguments.jobs:
        parser.error("give either --jobs, processes here, or --scheduler, those of a cluster")
    elsewhere = cluster(arguments.scheduler) if arguments.scheduler else None
    if arguments.jobs:
        elsewhere = processes(arguments.jobs)
    results = {}
    try:
        for name in names:
            experiment = experiments[name]
            taken_over = merge(experiment, arguments.preset, arguments.merge, arguments.out, device)
            results[name] = run(
                experiment,
                arguments.preset,
                arguments.seeds,
                arguments.out,
                device,
                program("reports"),
                taken_over,
                elsewhere,
                fresh=arguments.fresh,
            )
            write_experiment(experiment, results[name], arguments.out / name)
    except KeyboardInterrupt:
        tqdm.write("interrupted; finished units are kept: the same command goes on from there")
        return 130
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        print(
            f"cannot write to {arguments.out}: {error.strerror}. Finished units are kept: make room, and the same "
            "command goes on from there",
            file=sys.stderr,
        )
        return 1
    write_page(results, arguments.out / "index.html")
    print(f"report: {(arguments.out / 'index.html').resolve()}")
    diverged = sum("diverged" in run for result in results.values() for run in result["runs"])
    if diverged:
        print(f"{diverged} runs diverged: see the report", file=sys.stderr)
    return 1 if diverged else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m reports",
        description="Run the papers' experiments and write tables, figures and an HTML report.",
    )
    parser.add_argument(
        "experiments",
        nargs="*",
        metavar="EXPERIMENT",
        help=(
            f"which to run: {', '.join(EXPERIMENTS)} (default: all; those on images at --preset smoke only, since "
            "their other presets take half an hour or more)"
        ),
    )
    parser.add_argument(
        "--preset",
        choices=("smoke", "standard", "paper"),
        default="standard",
        help=(
            "smoke: small; standard: few seeds, and less work a seed where the paper's takes long; paper: the paper's "
            "settings and all seeds (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--seeds",
        type=_seeds,
        metavar="K",
        help=(
            "how many seeds, 0 ... K-1, instead of the preset's; or which, as FIRST-LAST, to share them out among "
            "machines"
        ),
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/reports"), metavar="DIR", help="where to write (default: %(default)s)"
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        help=(
            "the folder with the data files that some presets need (default: the environment variable "
            f"{VARIABLE}); «{DIGITS}» instead runs experiments on images with scikit-learn's, which need no file. The "
            "experiments on StyleGAN take your own images from it at --preset paper: from stylegan/images in it, or "
            "from the folder itself"
        ),
    )
    for file, what in (
        (CHECKPOINT, "the pretrained StyleGAN or StyleGAN2, in the layout of a common port"),
        (FEATURES, "what FID compares, a TorchScript file such as NVIDIA's Inception"),
    ):
        parser.add_argument(
            f"--{OPTIONS[file]}",
            metavar="FILE",
            help=f"of the experiments on StyleGAN at --preset paper: {what} (default: {file} in the data folder)",
        )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute (default: %(default)s)"
    )
    parser.add_argument(
        "--merge",
        nargs="+",
        type=Path,
        default=[],
        metavar="DIR",
        help=(
            "first take over what was done in these folders: other runs' --out, copied from other machines, say. "
            "Finished units of work are taken where settings, packages and kind of device are the "
            "same, finished seeds also from other packages and devices, which the report then names. What is missing "
            "after that is run"
        ),
    )
    parser.add_argument(
        "--jobs",
        type=_jobs,
        metavar="N",
        help="how many processes work here; 1 works in this one (default: one a core, or one a device)",
    )
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="let the workers of this Dask scheduler work, such as tcp://10.0.0.1:8786 (see docs/cluster.md)",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="set aside what is there of these experiments, and compute all anew"
    )
    parser.add_argument(
        "--recheck",
        action="store_true",
        help=(
            "compute the cheapest part of one seed of each experiment that has a result, in --out or committed, again "
            "by today's code, and compare; nothing is changed"
        ),
    )
    parser.add_argument("--list", action="store_true", help="list the experiments and stop")
    return parser


def _jobs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes: give 1 or more")
    return int(text)


def _seeds(text: str) -> range:
    """``5`` is 0 ... 4, ``3-5`` is 3, 4, 5."""
    first, dash, last = text.rpartition("-")
    if not last.isdecimal() or (dash and not first.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of seeds nor a range of them such as 3-5")
    seeds = range(int(first), int(last) + 1) if dash else range(int(last))
    if not seeds:
        raise argparse.ArgumentTypeError(f"{text!r} is no seeds: their number must be >= 1, or FIRST <= LAST")
    return seeds


if __name__ == "__main__":
    sys.exit(main())
