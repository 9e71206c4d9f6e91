# SPDX-License-Identifier: Apache-2.0
"""A whole store from beginning to end: which units there are, who does them, and the report."""

from __future__ import annotations

import os
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from ...tensorfiles.tensors import is_url
from ..console import progress
from ..errors import CommandError
from ..stores import open_store
from . import units as work
from .counted import counting
from .journal import Journal
from .report import Report
from .target import Target
from .units import UNIT_BYTES, Outcome, UnitError, units_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from pathlib import Path

    from ...quant import QuantizeConfig
    from ..stores import Store
    from .units import Unit


def verify(url: Path | str, scheduler: str | None = None, workers: int | None = None) -> Report:
    """Decode every chunk of a store: here, or if asked for on a cluster.

    Raises
    ------
    CommandError
        No store, or no cluster.
    DamagedError
        Its metadata is damaged.

    """
    opened = open_store(url)
    units = (
        unit
        for array in opened.arrays.values()
        for unit in units_of(counting(array), None, complete=opened.note is not None)
    )
    report = Report(str(url), None, len(opened.arrays))
    with _timed(report, opened, "verify") as tell:
        if scheduler is None and workers is None:
            found = _here(work.verify, units)
        else:
            found = _there(scheduler, workers, work.verify, units)
        with closing(found):
            for _, outcome in found:
                tell(outcome)
    return report


def recompress(
    source: str,
    target: str,
    codec: str = "gpucodec",
    profile: str = "ratio",
    quantize: QuantizeConfig | None = None,
    *,
    scheduler: str | None = None,
    workers: int | None = None,
    force: bool = False,
) -> Report:
    """Write a store anew with another codec, or what is missing of it.

    Raises
    ------
    CommandError
        `target` is something else, and not `force`; or as `verify`.
    DamagedError
        The metadata of `source` is damaged.

    """
    source, target = _absolute(source), _absolute(target)
    if source == target:
        raise CommandError(f"{source} cannot be recompressed to itself")
    opened = open_store(source)
    aim = Target(opened, target, codec, profile, quantize)
    journal = Journal(target)
    plan = {"version": 1, "source": source, "unit_bytes": UNIT_BYTES, "metadata": aim.digest}
    if force:
        _clear(aim, journal)
    fresh = journal.plan is None and aim.is_empty
    if journal.plan is None:
        if not fresh and not aim.is_published:
            raise CommandError(f"{target} exists; --force replaces it")
        journal.begin(plan)
    elif journal.plan != plan:
        differs = ", ".join(key for key in plan if journal.plan.get(key) != plan[key])
        message = f"{target} was begun with other {differs}; --force begins anew"
        raise CommandError(message)
    report = Report(source, target, len(opened.arrays))
    with _timed(report, opened, "recompress") as tell:
        units = _units(opened, aim, journal, tell, fresh=fresh, lossless=quantize is None)
        try:
            with closing(_there(scheduler, workers, work.recompress, units)) as outcomes:
                for unit, found in outcomes:
                    if not found.findings:
                        journal.note(unit, found)
                    tell(found)
        finally:
            journal.flush()
    if not report.failed:
        aim.publish()
    return report


def _units(
    opened: Store,
    aim: Target,
    journal: Journal,
    tell: Callable[[Outcome], None],
    *,
    fresh: bool,
    lossless: bool,
) -> Iterator[Unit]:
    """What is left to do; what is done already is told at once."""
    for path, array in opened.arrays.items():
        there: set[str] = set() if fresh else aim.keys(path)
        prefix = f"{path}/" if path else ""
        there = {key if key.startswith(prefix) else prefix + key for key in there}
        complete = opened.note is not None
        options: dict[str, Any] = {"complete": complete, "lossless": lossless}
        for unit in units_of(counting(array), aim.arrays[path], **options):
            n_there = len(there.intersection(unit.keys())) if there else 0
            known = journal.recall(unit)
            if known is not None and known.stored == n_there:
                tell(known)
            else:
                yield replace(unit, compare=n_there > 0)


def _clear(aim: Target, journal: Journal) -> None:
    if journal.plan is None and not (aim.is_empty or aim.is_store):
        raise CommandError(f"{aim.url} is no zarr store: not removed")
    aim.clear()
    journal.clear()


def _absolute(path: str) -> str:
    return path if is_url(path) else os.path.abspath(path)  # noqa: PTH100 - keep links as they are


def _here(
    function: Callable[[Unit], Outcome], units: Iterable[Unit]
) -> Generator[tuple[Unit, Outcome]]:
    """In this process, one after the other; decoding takes all threads anyway."""
    for unit in units:
        try:
            yield unit, function(unit)
        except UnitError as error:
            yield unit, error.args[0]


def _there(
    scheduler: str | None,
    workers: int | None,
    function: Callable[[Unit], Outcome],
    units: Iterator[Unit],
) -> Generator[tuple[Unit, Outcome]]:
    """On a cluster, if there is anything to do."""
    try:
        from . import cluster
    except ImportError as error:
        raise CommandError(f"this needs Dask: pip install 'gpucodec[dask]' ({error})") from error
    if (first := next(units, None)) is not None:
        with cluster.cluster(scheduler, workers) as client:
            yield from cluster.outcomes(client, function, chain([first], units))


@contextmanager
def _timed(report: Report, opened: Store, label: str) -> Iterator[Callable[[Outcome], None]]:
    """A bar, a clock, and what counts a unit."""
    started = time.perf_counter()
    with progress(f"{label} {report.source}", opened.decoded_bytes) as done:

        def tell(found: Outcome) -> None:
            for finding in report.add(found):
                click.echo(f"error: {finding}", err=True)
            done(found.decoded_bytes)

        yield tell
    report.seconds = time.perf_counter() - started
