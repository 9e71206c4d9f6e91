# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: real tensors, the peers, one timing method. See ``bench/README.md``."""
