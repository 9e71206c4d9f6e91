# SPDX-License-Identifier: Apache-2.0
"""What a person sees: tables on stdout, progress on stderr while it is a terminal."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from .. import decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .survey import Row

_PIPE_WIDTH = 160  # a table that is piped into a file is not cut to 80 columns
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def console() -> Console:
    """The standard output, made when it is used, so that a redirection is seen."""
    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)


def say(*parts: Any) -> None:
    """Print a line; square brackets are not markup, since names of tensors may have them."""
    console().print(*parts, markup=False, soft_wrap=True)


def ready(*, everything: bool = False) -> None:
    """Load the kernels. The first time they are compiled, which takes a while and is announced.

    `everything` takes those of sparse and of predicted frames too, so that timing can begin.
    """
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(256, 256))
    products = np.exp(rng.normal(size=(256, 1)) + rng.normal(size=256) + dense / 10)
    arrays = (dense, np.maximum(dense, 0), products) if everything else (dense,)
    error = Console(stderr=True)
    said = error.status("preparing the kernels (compiled on first use)")
    with said if error.is_terminal else nullcontext():
        for array in arrays:
            decode(encode(array.astype(np.float32)))


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar over `total` bytes; yields what is called with the bytes done since."""
    error = Console(stderr=True)
    if not error.is_terminal:
        yield lambda _: None
        return
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=error,
        transient=True,
    )
    with bar:
        task = bar.add_task(label, total=total)
        yield lambda n: bar.advance(task, n)


def size(n_bytes: float) -> str:
    """Bytes for a person, in binary units."""
    unit = 0
    while n_bytes >= 1000 and unit < len(_UNITS) - 1:
        n_bytes /= 1024
        unit += 1
    return f"{n_bytes:.0f} B" if unit == 0 else f"{n_bytes:.3g} {_UNITS[unit]}"


def rate(n_bytes: float, seconds: float) -> str:
    """Decimal gigabytes per second, as storage is sold."""
    return f"{n_bytes / 1e9 / max(seconds, 1e-9):.2f} GB/s"


def table(
    headings: Iterable[str], rows: Iterable[Iterable[str]], total: Iterable[str] = ()
) -> None:
    """Print a table; columns of sizes and ratios are to the right. `total` is the last row."""
    grid = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        right = heading in {"bytes", "stored", "ratio"} or heading.endswith("GB/s")
        grid.add_column(heading, justify="right" if right else "left", overflow="fold")
    for row in rows:
        grid.add_row(*map(Text, row))
    if total:
        grid.add_section()
        grid.add_row(*(Text(cell, style="bold") for cell in total))
    console().print(grid)


def survey(rows: list[Row]) -> None:
    """The table of `inspect` and `demo`: a row per tensor, and a total."""
    before, after = sum(row.decoded_bytes for row in rows), sum(row.encoded_bytes for row in rows)
    table(
        ("tensor", "dtype", "shape", "bytes", "stored", "ratio", "coders by plane"),
        (
            (
                row.name,
                row.dtype,
                "×".join(map(str, row.shape)) or "scalar",
                size(row.decoded_bytes),
                size(row.encoded_bytes),
                f"{row.ratio:.3f}",
                row.coders,
            )
            for row in rows
        ),
        ("total", "", "", size(before), size(after), f"{before / max(1, after):.3f}", ""),
    )
