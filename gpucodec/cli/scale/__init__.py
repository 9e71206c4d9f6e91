# SPDX-License-Identifier: Apache-2.0
"""Whole stores, unit by unit: in this process, or on many machines with Dask."""
