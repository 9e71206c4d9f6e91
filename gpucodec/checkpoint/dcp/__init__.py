# SPDX-License-Identifier: Apache-2.0
"""torch.distributed.checkpoint on top of checkpoints: sharded state dicts, any number of ranks.

>>> import torch.distributed.checkpoint as dcp                       # doctest: +SKIP
>>> from gpucodec.checkpoint.dcp import ZarrReader, ZarrWriter       # doctest: +SKIP
>>> dcp.save(state_dict, storage_writer=ZarrWriter("s3://bucket/step-100"))  # doctest: +SKIP
>>> dcp.load(state_dict, storage_reader=ZarrReader("s3://bucket/step-100"))  # doctest: +SKIP

What it writes is an ordinary checkpoint: `gpucodec.checkpoint.load`, `open`, `inspect` and
`verify` read it, and `ZarrReader` reads what `gpucodec.checkpoint.save` wrote.
"""

from __future__ import annotations

from .reader import ZarrReader
from .writer import ZarrWriter

__all__ = ["ZarrReader", "ZarrWriter"]
