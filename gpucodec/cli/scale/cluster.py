# SPDX-License-Identifier: Apache-2.0
"""Units on a Dask cluster: a local one, or the one of a scheduler's address."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from distributed import Client, LocalCluster, WorkerPlugin, as_completed
from distributed.system import MEMORY_LIMIT

from ... import __version__, threads
from ..errors import CommandError
from .units import HELD, Outcome, UnitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .units import Unit

MEMORY: Final = "gpucodec-bytes"  # a resource of workers: how much memory tasks may take together
SHARE: Final = 0.6  # of a local worker's memory, as Dask begins to spill there
RETRIES: Final = 2  # of a unit that raised; one whose worker died is repeated by Dask anyway
WAITING: Final = 2  # units for each thread of the cluster, so that none waits for the next
PATIENCE: Final = 30  # seconds for the first worker to come


class OneThread(WorkerPlugin):  # type: ignore[misc] # Dask is not typed
    """A task takes the one thread that Dask counts for it."""

    name = "gpucodec"

    def setup(self, worker: Any) -> None:  # noqa: ARG002 - of Dask's interface
        """Called on every worker, those that come later too."""
        threads.set_threads(1)


@contextmanager
def cluster(scheduler: str | None, n_workers: int | None) -> Iterator[Client]:
    """A client of a running scheduler, or of a cluster of `n_workers` processes made for it.

    Raises
    ------
    CommandError
        Nobody answers at the address, it has no workers, or they have another gpucodec.

    """
    if scheduler is None:
        n = n_workers or threads.available()
        local = LocalCluster(
            n_workers=n,
            threads_per_worker=1,
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,  # what goes wrong is in the report
            resources={MEMORY: SHARE * MEMORY_LIMIT / n},
        )
    else:
        local = None
    try:
        with Client(local or scheduler, timeout=PATIENCE) as client:
            client.wait_for_workers(1, timeout=PATIENCE)
            _same_version(client)
            client.register_plugin(OneThread())
            yield client
    except (TimeoutError, OSError, ValueError) as error:
        if local is not None:
            raise
        raise CommandError(f"scheduler {scheduler}: {error}") from error
    finally:
        if local is not None:
            local.close()


def _version() -> str:
    return __version__


def _same_version(client: Client) -> None:
    for worker, version in client.run(_version, on_error="return").items():
        if version != __version__:
            raise CommandError(f"worker {worker} has gpucodec {version}, here is {__version__}")


def outcomes(
    client: Client, work: Callable[[Unit], Outcome], units: Iterable[Unit]
) -> Iterator[tuple[Unit, Outcome]]:
    """Do the units, as they come; a window of them is with the cluster at any time.

    Raises
    ------
    CommandError
        The scheduler is gone.

    """
    coming = iter(units)
    pending: dict[Any, Unit] = {}
    running = as_completed()

    def submit_some() -> None:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        window = WAITING * max(1, sum(worker["nthreads"] for worker in workers))
        offered = min((worker["resources"].get(MEMORY, 0) for worker in workers), default=0)
        while len(pending) < window and (unit := next(coming, None)) is not None:
            limits = {MEMORY: min(offered, HELD * unit.nbytes)} if offered else None
            future = client.submit(work, unit, pure=False, retries=RETRIES, resources=limits)
            pending[future] = unit
            running.add(future)

    submit_some()
    for future in running:
        unit = pending.pop(future)
        yield unit, _outcome(future, unit)
        submit_some()


def _outcome(future: Any, unit: Unit) -> Outcome:
    if future.status == "finished":
        found: Outcome = future.result()
        return found
    if future.status != "error":
        raise CommandError(f"the scheduler is gone ({future.status}); run again to go on")
    error = future.exception()
    if isinstance(error, UnitError):
        failed: Outcome = error.args[0]
        return failed
    name = unit.path or "the array"
    keys = unit.keys()  # all of them: its worker died again and again, for one
    return Outcome(findings=[f"{key} of {name}: {error}" for key in keys])
