"""``python -m verification``: check the papers' claims, write the ledger and its page."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from reports.shared.provenance import program, provenance
from reports.shared.store import ensure_writable, write_json, write_text
from verification.coverage import table
from verification.ledger import as_read, claims, differences, run


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    known = claims()
    unknown = [name for name in arguments.only or () if name not in known]
    if unknown:
        parser.error(f"unknown claim {', '.join(unknown)}; python -m verification --list shows the known ones")
    if arguments.list:
        for one in known.values():
            print(f"{one.id:32} {one.source:44} {one.statement}")
        return 0
    if arguments.coverage:
        print(table())
        return 0
    if arguments.device == "cuda":
        parser.error("the claims run on the CPU, in float64: take --device auto or cpu")
    ensure_writable(arguments.out)
    try:
        entries = run(arguments.only or known, arguments.preset)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    from verification.page import ledger_json, write_errata, write_page

    record = {**provenance(program("verification"), "cpu"), "preset": arguments.preset}
    write_text(arguments.out / "ledger.json", ledger_json(entries))
    write_json(arguments.out / "provenance.json", record)
    write_page(entries, record, arguments.out)
    if not arguments.only:
        write_errata(entries, record, arguments.out)
    print(_table(entries))
    unexpected = differences(entries)
    counts = Counter(entry["verdict"] for entry in entries)
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    for line in unexpected:
        print(line, file=sys.stderr)
    print(f"ledger: {(arguments.out / 'index.html').resolve()}")
    return 1 if unexpected else 0


def _table(entries: list[dict[str, Any]]) -> str:
    """A line a claim."""
    titles = ("claim", "verdict", "measured", "expected", "error / bound", "seconds")
    names = ("id", "verdict", "measured", "expected", "largest", "seconds")
    rows = [titles, *(tuple(_short(entry[name]) for name in names) for entry in entries)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(titles))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _short(value: Any) -> str:
    """A cell: a number as the page has it, the first words of a text."""
    text = as_read(value)
    return text if len(text) <= 34 else text[:33] + "…"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m verification",
        description="Check the papers' claims by computation. Exit status 0 only if every verdict, tolerance and "
        "floor is the recorded one.",
    )
    parser.add_argument("--only", nargs="+", metavar="ID", help="check these claims only")
    parser.add_argument(
        "--preset",
        choices=("smoke", "standard"),
        default="standard",
        help="smoke: fewer cases; standard: all (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/verification"),
        metavar="DIR",
        help="where to write (default: %(default)s)",
    )
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="claims run on the CPU (default: auto)"
    )
    parser.add_argument("--list", action="store_true", help="list the claims and stop")
    parser.add_argument(
        "--coverage", action="store_true", help="list the papers' numbered items with what tests them, and stop"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
