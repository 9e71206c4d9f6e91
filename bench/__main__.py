# SPDX-License-Identifier: Apache-2.0
"""One report of all benchmarks: ``python -m bench [--quick] [--folder FOLDER] [PART ...]``.

Every part runs in a process of its own, peers and all; what it prints is kept as PART.txt. Writes
report.md, report.json and the plots. ``--show FOLDER`` makes report and plots again, measures nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import rich.console

from . import goals, lossless, measure, must_show, record

if TYPE_CHECKING:
    from .tables import Table

LOSSLESS: Final = "lossless"


@dataclass(frozen=True)
class Part:
    """A benchmark: `python -m bench.NAME`."""

    name: str
    quick: tuple[str, ...] = ()
    """Arguments of a run of about a minute."""
    full: tuple[str, ...] = ()
    """Those of a run of some minutes: the benchmark by itself may do more rounds."""
    needs: tuple[str, ...] = ()
    """Packages without which it is left out."""
    sized: bool = False
    """Takes --size, of the corpus."""


PARTS: Final = (  # those with goals first
    Part(LOSSLESS, ("--quick",), ("--rounds", "5"), sized=True),
    Part("transforms", ("--rounds", "2"), ("--rounds", "5"), sized=True),
    Part("lz", ("--rounds", "2"), ("--rounds", "5"), needs=("blosc2", "zstandard"), sized=True),
    Part("quantize", ("--rounds", "1"), ("--rounds", "3")),
    Part("zarr_overhead"),
    Part(
        "checkpoint",
        ("--rounds", "1", "--megabytes"),
        ("--rounds", "3"),
        needs=("torch", "safetensors"),
        sized=True,
    ),
    Part("fs", ("--mib", "128", "--rounds", "2"), ("--rounds", "3"), needs=("safetensors",)),
    Part("activations", ("--quick",), needs=("torch", "psutil")),
    Part("tuner", needs=("torch",)),
    Part(
        "model",
        ("cnn", "bits"),
        ("cnn", "encoder", "gpt", "bits"),
        needs=("torch", "sklearn", "safetensors"),
    ),
    Part("gpu", ("--megabytes", "64"), needs=("cupy",), sized=True),
    Part("zarr_io", ("--mib", "32", "--rounds", "2"), ("--rounds", "3"), sized=True),
    Part("cloud", ("--mib", "32", "--rates", "30"), needs=("moto", "s3fs")),
    Part(
        "growth",
        ("--most-bytes", str(1 << 26), "--patience", "4"),
        ("--patience", "20"),
        needs=("psutil",),
        sized=True,
    ),
)


def run(part: Part, folder: Path, size: str, *, quick: bool) -> dict[str, Any]:
    """Run one part; whether it ended well, and in which time."""
    missing = [name for name in part.needs if find_spec(name) is None]
    if find_spec(f"bench.{part.name}") is None or missing:
        return {"status": f"left out: needs {', '.join(missing) or 'a later version'}"}
    command = [sys.executable, "-W", "ignore", "-m", f"bench.{part.name}"]
    command += part.quick if quick else part.full
    command += ["--size", size] if part.sized else []
    if part.name == LOSSLESS:
        command += ["--json", str(folder / "lossless.json")]
    environment = os.environ | {record.VARIABLE: str(folder / "figures.jsonl"), "COLUMNS": "140"}
    begin = time.perf_counter()
    with (folder / f"{part.name}.txt").open("w") as log:
        done = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False)
    status = "measured" if done.returncode == 0 else f"FAILED, see {part.name}.txt"
    return {"status": status, "seconds": round(time.perf_counter() - begin)}


def all_goals(folder: Path) -> list[goals.Goal]:
    """Those of lossless coding, then all others."""
    path = folder / "lossless.json"
    found = list(goals.goals(json.loads(path.read_text()))) if path.exists() else []
    return found + list(must_show.goals(record.read(folder / "figures.jsonl")))


def plot(folder: Path, report: dict[str, Any]) -> list[Path]:
    """All plots that there are figures for."""
    from . import plots

    made = []
    kinds = report["lossless"].get("contests", {}).get("native", {}).get("kinds", {})
    if goals.TRAINED in kinds:
        made.append(
            plots.chart(kinds[goals.TRAINED]["results"], goals.TRAINED, folder / "chart.svg")
        )
    if kinds:
        made.append(plots.ratios(kinds, folder / "ratios.svg"))
    if report["figures"].get("growth"):
        made.append(plots.growth(report["figures"]["growth"], folder / "growth.svg"))
    return made


def write(folder: Path) -> list[goals.Goal]:
    """report.json, report.md and the plots, from what lies in the folder."""
    path = folder / "lossless.json"
    report = json.loads((folder / "run.json").read_text())
    report["lossless"] = json.loads(path.read_text()) if path.exists() else {}
    report["figures"] = record.read(folder / "figures.jsonl")
    found = all_goals(folder)
    report["goals"] = [vars(goal) for goal in found]
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    m = report["machine"]
    lines = [
        "# Benchmarks",
        f"{m['date']}, {m['cpu']}, {m['cores']} cores, {m['system']}, Python {m['python']}, load {m['load']}"
        + (", quick" if report["quick"] else ""),
        must_show.summary(found) + ".",
        goals.table_of(found).markdown(),
    ]
    lines += [f"![{one.stem}]({one.name})" for one in plot(folder, report)]
    for part, state in report["parts"].items():
        lines.append(f"## {part}: {state['status']}")
        output = folder / f"{part}.txt"
        if output.exists():
            lines.append("```text\n" + output.read_text(errors="replace").strip() + "\n```")
    (folder / "report.md").write_text("\n\n".join(lines) + "\n")
    return found


def main() -> None:
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="minutes instead of an hour")
    parser.add_argument("--size", default="full", help="of the corpus: full or tiny")
    parser.add_argument("--folder", type=Path, default=Path("bench-report"))
    parser.add_argument("--show", action="store_true", help="write the report again")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(names):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    folder: Path = options.folder
    if not options.show:
        folder.mkdir(parents=True, exist_ok=True)
        state_path = folder / "run.json"
        before = json.loads(state_path.read_text()) if options.parts and state_path.exists() else {}
        state: dict[str, Any] = {
            "machine": measure.machine(),
            "quick": options.quick,
            "parts": before.get("parts", {}),
        }
        if not options.parts:
            (folder / "figures.jsonl").unlink(missing_ok=True)
        for part in PARTS:
            if not options.parts or part.name in options.parts:
                print(f"{part.name} ...", end=" ", flush=True)
                state["parts"][part.name] = run(part, folder, options.size, quick=options.quick)
                print(state["parts"][part.name]["status"], flush=True)
                state_path.write_text(json.dumps(state, indent=1))
                write(folder)  # so that a run that is ended early leaves a report
    found = write(folder)
    console = rich.console.Console()
    if not console.is_terminal:
        console.width = lossless.WIDTH
    table: Table = goals.table_of(found)
    table.show(console)
    print(f"{must_show.summary(found)}; {folder / 'report.md'}")


if __name__ == "__main__":
    main()
