# SPDX-License-Identifier: Apache-2.0
"""Optional packages: an error that says which to install."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from .errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator


class MissingPackageError(UnsupportedError, ImportError):
    """An optional package is not installed."""


@contextmanager
def needs(package: str, extra: str) -> Iterator[None]:
    """Import an optional package inside.

    Raises
    ------
    MissingPackageError
        It is not installed: an UnsupportedError, and an ImportError to those who look for one.

    """
    try:
        yield
    except ImportError as error:
        missing = error.name or package
        raise MissingPackageError(
            f"{missing} is not installed: pip install 'gpucodec[{extra}]'"
        ) from error
