# SPDX-License-Identifier: Apache-2.0
"""A disk of a given bandwidth: the kernel's own throttle, for this process alone.

Linux counts what a process reads from a block device, and writes to it when it waits for the disk,
towards the limits of its control group (``blkio`` of version 1, ``io`` of version 2). Making such a
group takes root. Nothing else of the machine is slowed down.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


@contextmanager
def limited(folder: Path, bytes_per_second: float) -> Iterator[None]:
    """Limit reads and writes of the device that holds `folder`. Raises OSError without the rights."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    rate = int(bytes_per_second)
    is_old = (ROOT / "blkio").is_dir()
    above = ROOT / "blkio" if is_old else ROOT
    group = above / f"gpucodec-bench-{os.getpid()}"
    group.mkdir()
    try:
        if is_old:
            for way in ("read", "write"):
                (group / f"blkio.throttle.{way}_bps_device").write_text(f"{number} {rate}")
        else:
            (group / "io.max").write_text(f"{number} rbps={rate} wbps={rate}")
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield
    finally:
        (above / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


def evict(path: Path) -> None:
    """Drop a file's, or all of a folder's, clean pages from the page cache."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
