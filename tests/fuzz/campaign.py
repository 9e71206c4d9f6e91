# SPDX-License-Identifier: Apache-2.0
"""All targets in turn, each in a process of its own: `make fuzz`.

    python tests/fuzz/campaign.py [--seconds 600] [--turns 1] [--folder .fuzz] [TARGET ...]

A turn runs at the next of the SIMD levels. Corpora stay in the folder and are gone on with; findings
lie beside them. Prints a table of what was done, over all turns that the folder has seen.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from fuzz.targets import NAMES, NATIVE  # noqa: E402 the folder of the tests comes first
from helpers import LEVELS  # noqa: E402

LIMITS = ("-timeout=60", "-rss_limit_mb=4096", "-print_final_stats=1")


def fuzz(name: str, folder: Path, seconds: int, level: str) -> dict[str, Any]:
    """Fuzz one target, and what came of it; its output is in NAME.log."""
    from fuzz import run

    environment = run.environment() if name in NATIVE else dict(os.environ)
    findings = folder / "findings"
    findings.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(HERE / "run.py"), name, str(folder / name), *LIMITS]
    command += [f"-max_total_time={seconds}", f"-artifact_prefix={findings}/{name}-"]
    before = os.times()
    with (folder / f"{name}.log").open("w") as log:
        done = subprocess.run(
            command, env=environment | LEVELS[level], stdout=log, stderr=log, check=False
        )
    after = os.times()
    text = (folder / f"{name}.log").read_text(errors="replace")
    executed = re.search(r"number_of_executed_units: +(\d+)", text)
    covered = re.findall(r"cov: (\d+) ft: (\d+)", text)
    return {
        "target": name,
        "level": level,
        "executions": int(executed[1]) if executed else 0,
        "cpu_s": after.children_user
        + after.children_system
        - before.children_user
        - before.children_system,
        "coverage": int(covered[-1][0]) if covered else 0,
        "corpus": sum(1 for _ in (folder / name).glob("*")),
        "failed": done.returncode != 0,
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    }


def table(runs: list[dict[str, Any]]) -> str:
    """What all runs did together, as Markdown."""
    lines = ["| target | executions | CPU minutes | corpus | branches |", "|---|--:|--:|--:|--:|"]
    total = [0, 0.0]
    for name in NAMES:
        mine = [one for one in runs if one["target"] == name]
        if not mine:
            continue
        executions, cpu = sum(r["executions"] for r in mine), sum(r["cpu_s"] for r in mine) / 60
        total = [total[0] + executions, total[1] + cpu]
        most = max(one["coverage"] for one in mine)
        lines.append(
            f"| `{name}` | {executions:,} | {cpu:.1f} | {mine[-1]['corpus']:,} | {most:,} |"
        )
    return "\n".join([*lines, f"| all | {total[0]:,} | {total[1]:.1f} | | |"])


def main() -> None:
    parser = argparse.ArgumentParser(prog="campaign.py", description=__doc__)
    parser.add_argument("targets", nargs="*", default=NAMES, metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=600, help="of each target and turn")
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path(".fuzz"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    record = options.folder / "runs.jsonl"
    failed = False
    for turn in range(options.turns):
        level = sorted(LEVELS)[turn % len(LEVELS)]
        for name in options.targets:
            found = fuzz(name, options.folder, options.seconds, level)
            failed |= found["failed"]
            with record.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(f"{found['date']} {name} at {level}: {found['executions']} executions", end=" ")
            print("FAILED, see its log" if found["failed"] else "", flush=True)
    print(table([json.loads(line) for line in record.read_text().splitlines()]))
    sys.exit(failed)


if __name__ == "__main__":
    main()
