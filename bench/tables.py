# SPDX-License-Identifier: Apache-2.0
"""One table, shown on a terminal or written as Markdown."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import rich.console
import rich.table


@dataclass
class Table:
    """Rows of text; the first ``n_left`` columns are left-aligned."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    note: str = ""
    n_left: int = 1

    def add(self, *cells: object) -> None:
        assert len(cells) == len(self.columns), (cells, self.columns)
        self.rows.append(tuple(str(cell) for cell in cells))

    def show(self, console: rich.console.Console) -> None:
        table = rich.table.Table(title=self.title, caption=self.note, title_justify="left")
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="left" if index < self.n_left else "right")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)

    def markdown(self) -> str:
        def line(cells: tuple[str, ...]) -> str:
            return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

        rule = tuple("---" if i < self.n_left else "--:" for i in range(len(self.columns)))
        body = [line(self.columns), line(rule), *map(line, self.rows)]
        note = f"\n\n{self.note}" if self.note else ""
        return f"### {self.title}\n\n" + "\n".join(body) + note + "\n"


def times(value: float | None) -> str:
    """A speed relative to the reference."""
    return "" if value is None else f"{value:.2f}x"


def percent(value: float) -> str:
    return f"{100 * value:+.2f} %"


def insert(path: Path, name: str, text: str) -> None:
    """Put Markdown between the marks ``name`` of a file; make both if they are missing."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    old = path.read_text() if path.exists() else ""
    before, _, rest = old.partition(begin)
    after = rest.partition(end)[2] or "\n"
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")
