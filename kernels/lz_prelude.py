# SPDX-License-Identifier: Apache-2.0
"""The numbers of LZ as C++: those of `lz_spec`."""

from __future__ import annotations

from . import lz_spec
from .spec import constants, table

TABLES = ("LEAST", "LEAST_BITS", "FILL_LEAST")


def prelude() -> str:
    """Constants and tables in a namespace, as some have the names of other formats' constants."""
    tables = (table(f"u32 {name}", getattr(lz_spec, name)) for name in TABLES)
    return "\n".join(["namespace lz {", *constants(vars(lz_spec)), *tables, "}\n"])
