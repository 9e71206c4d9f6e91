# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of the codec: every function that touches the bits of a tensor.

**The pair contract.** A stage ``x`` of the format is ``x.py`` (Numba, any CPU) and, where a GPU
runs it too, ``x.cu`` (CUDA C++): the same stem, the same entry names, the same parameter names,
the same bytes. Constants come from ``spec.py``, which both sides read. Nothing here imports from
the rest of gpucodec, so that a kernel can be read, tested and replaced on its own.
"""
