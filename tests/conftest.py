# SPDX-License-Identifier: Apache-2.0
"""Fixtures and profiles shared by all tests.

HYPOTHESIS_PROFILE=long runs 20,000 examples a property instead of 500; ``-m long`` selects the
tests that take minutes (docs/testing.md).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside this file

common = settings(
    deadline=None,  # the first example compiles
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("pr", common, max_examples=500)
settings.register_profile("long", common, max_examples=20_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "pr"))

pytest_plugins = ["gpucodec_s3", "fs_places"]  # fixtures of the filesystem's tests
