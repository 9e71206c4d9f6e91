# SPDX-License-Identifier: Apache-2.0
"""Promise 7: a frame cut at any byte is a TruncatedError, exactly that class."""

from __future__ import annotations

import pytest
import seeds

import gpucodec
from gpucodec import TruncatedError, frame as container


@pytest.mark.parametrize("label", seeds.LABELS)
def test_every_prefix_is_truncated(label):
    whole = memoryview(seeds.all_seeds()[label].frame)
    for length in range(len(whole)):
        for read in (gpucodec.decode, gpucodec.inspect, gpucodec.verify):
            with pytest.raises(TruncatedError) as caught:
                read(whole[:length])
            assert caught.type is TruncatedError
            assert str(length) in str(caught.value)


@pytest.mark.parametrize("label", seeds.LABELS[:8])
def test_every_prefix_of_the_table_is_truncated(label):
    made = seeds.all_seeds()[label]
    whole = memoryview(made.frame)
    table = container.table_bytes(whole[:40])
    for length in range(table):
        with pytest.raises(TruncatedError):
            container.parse(whole[:length], whole=False)
    for length in (table, table + 1, len(whole)):
        if length <= len(whole):
            assert container.parse(whole[:length], whole=False).decoded_bytes == len(made.raw)


def test_salvage_does_not_excuse_truncation():
    frame = seeds.all_seeds()[seeds.LABELS[0]].frame
    with pytest.raises(TruncatedError):
        gpucodec.decode(frame[:-1], salvage=True)
