"""``python -m benchmarks``: measure ours and the peers, print the table, write the JSON.

Nothing here asserts a time: a target is marked as met or missed. The exit code is 1 only when one
of our own programs failed or lost a record.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks import report
from benchmarks.harness import Runner
from benchmarks.rows import ROOT, ROWS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        choices=[row.name for row in ROWS],
        help=f"a row; may be given again: {', '.join(row.name for row in ROWS)}",
    )
    parser.add_argument("--rounds", type=int, default=5, help="measurements per program (5)")
    parser.add_argument("--quick", action="store_true", help="one small round, to see it run")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench.json")
    args = parser.parse_args()
    rounds = 1 if args.quick else max(1, args.rounds)
    folder: Path = args.output.parent
    folder.mkdir(parents=True, exist_ok=True)

    start = time.monotonic()

    def say(line: str) -> None:
        print(f"[{time.monotonic() - start:6.1f} s] {line}", file=sys.stderr, flush=True)

    say("probing the machine and its disk")
    machine = report.machine(folder)
    runner = Runner(rounds, args.quick, folder, say)
    chosen = [row for row in ROWS if not args.only or row.name in args.only]
    results = [runner.run(row) for row in chosen]

    print("\n" + ", ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"medians of {rounds}" + (" (quick: not the sizes of the targets)" * args.quick) + "\n")
    print(report.table(results))
    figures = report.as_json(machine, results, rounds=rounds, quick=args.quick)
    args.output.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    say(f"written to {args.output}")
    return 1 if any(result.ours.failed for result in results) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
