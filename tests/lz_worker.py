# SPDX-License-Identifier: Apache-2.0
"""Prints the digests of `test_lz.digests`, at the instruction set that the environment says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import test_lz

print(json.dumps(test_lz.digests()))
