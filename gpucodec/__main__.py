# SPDX-License-Identifier: Apache-2.0
"""``python -m gpucodec`` is the command ``gpucodec``."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main(prog_name="gpucodec")
