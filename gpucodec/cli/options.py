# SPDX-License-Identifier: Apache-2.0
"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..kernels import quantspec, spec

PATH = click.Path(path_type=Path)
CODEC_NAMES = ("gpucodec", "zstd", "blosc", "gzip", "none")

profile_option = click.option(
    "--profile",
    type=click.Choice(spec.PROFILES),
    default="ratio",
    show_default=True,
    help="The smallest, the fastest to decode, or nearly the smallest.",
)
quantize_option = click.option(
    "--quantize",
    type=click.Choice(tuple(quantspec.BY_NAME)),
    help="LOSSY: quantize matrices of floats in this format.",
)
bound_option = click.option(
    "--bound",
    metavar="KIND=VALUE",
    help="With --quantize: how far a value may be off, such as rel=0.01, abs=1e-3 or range=1e-4; "
    "what would be further off is kept exactly.",
)


def cluster_options(command: Any) -> Any:
    """Where the units of a store are worked on, and how the report is printed."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Report as JSON on stdout."),
        click.option(
            "--workers", type=click.IntRange(1), help="Processes of a local Dask cluster."
        ),
        click.option("--scheduler", metavar="ADDRESS", help="Of a Dask cluster: tcp://HOST:8786."),
    ):
        command = option(command)
    return command


force = click.option(
    "--force", is_flag=True, help="Replace DST if it exists, once the new one is complete."
)
