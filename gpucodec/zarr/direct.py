# SPDX-License-Identifier: Apache-2.0
"""Stores that move values straight between themselves and the memory of a GPU: that of kvikio.

kvikio (GPUDirect Storage) is looked for where somebody imported it, as all frameworks are, and imported only
by `gds_store`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from zarr.storage import WrapperStore

from gpucodec.errors import UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path

    from zarr.abc.store import Store

EXTRAS = "pip install 'gpucodec[gds12]' or 'gpucodec[gds13]', as the driver needs"


def reads_to_device(store: Any) -> bool:
    """Whether a store, or what it wraps, fills GPU buffers without a copy on the host.

    That holds for kvikio's, and for any store with an attribute `reads_to_device` that is true.
    """
    while isinstance(store, WrapperStore):
        store = store._store  # noqa: SLF001 - as its documentation says
    marked = getattr(store, "reads_to_device", None)
    if marked is not None:
        return bool(marked)
    kvikio = sys.modules.get("kvikio.zarr")
    return kvikio is not None and isinstance(store, kvikio.GDSStore)


def gds_store(root: Path | str, *, read_only: bool = False) -> Store:
    """A local store by GPUDirect: values go between the disk and the GPU, past the host's memory.

    Parameters
    ----------
    root
        Folder of the store; it is created if it is not there.
    read_only
        Refuse to write.

    Returns
    -------
    `kvikio.zarr.GDSStore`. Where the system has no GPUDirect, kvikio copies by way of the host.

    Raises
    ------
    UnsupportedError
        kvikio cannot be imported; the message says why.

    """
    try:
        from kvikio.zarr import GDSStore
    except ImportError as error:
        message = f"GPUDirect needs kvikio, which cannot be imported ({error}): {EXTRAS}"
        raise UnsupportedError(message) from error
    return GDSStore(root, read_only=read_only)  # type: ignore[no-any-return]
