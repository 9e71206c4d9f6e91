# SPDX-License-Identifier: Apache-2.0
"""What palettes, the sparse transform and the predictor gain: ``python -m bench.transforms``.

Tensor by tensor, since the predictor needs rows. The first table forces every combination upon the
encoder; "chosen" is what the public API makes of the same tensors by itself. The second compares
the profiles.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

import gpucodec
from gpucodec import TensorConfig, buffers, cpu, plan
from gpucodec.kernels import spec

from . import measure
from .corpus import Arrays, open_corpus
from .record import record
from .tables import Table, times

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATIO_KINDS: Final = (
    "pruned weights bfloat16",
    "pruned by product bfloat16",
    "pruned weights float32",
    "post-ReLU bfloat16",
    "exp_avg_sq float32",
    "exp_avg_sq bfloat16",
    "exp_avg float32",
    "gradients float32",
    "autocast gradients float32",
    "gradients bfloat16",
    "weights float32",
    "weights bfloat16",
)
SPEED_KINDS: Final = (
    "weights bfloat16",
    "weights float32",
    "pruned weights bfloat16",
    "exp_avg_sq float32",
    "exp_avg_sq bfloat16",
)
PROFILES: Final = spec.PROFILES
WAYS: Final = ("dense", "sparse", "predicted", "both")


def forced_bytes(array: NDArray[Any]) -> dict[str, int]:
    """Bytes of a tensor's frame by transform; without a model, those of the transforms left."""
    words, dtype, shape = buffers.elements(array)
    block_log = TensorConfig().block_log(dtype.spec.word_bytes)
    profile = spec.PROFILE_RATIO
    model = plan.find_model(words, dtype, shape, profile)
    section = cpu._pack_model(model) if model is not None else b""
    sizes = {}
    for way in WAYS:
        flags = spec.SPARSE if way in {"sparse", "both"} and len(dtype.spec.planes) > 1 else 0
        predicted = way in {"predicted", "both"} and model is not None
        flags |= spec.PREDICTED if predicted else 0
        encoding = cpu._Encoding(
            words, dtype, block_log, profile, flags, model if predicted else None
        )
        frame = cpu._frame(encoding, shape, section if predicted else b"", 1)
        sizes[way] = frame.size
    return sizes


def ratio_table(tensors_of: Iterator[tuple[str, Arrays]]) -> Table:
    """Bits a value by transform."""
    table = Table(
        "Bits a value",
        ("tensors", *WAYS, "chosen", "ratio", "tensors with a model", "blocks packed"),
        note="Headers, tables, hashes and models included. Forced, save for the last columns.",
    )
    for kind, tensors in tensors_of:
        totals, n_values, chosen, n_models, n_packed, n_blocks = {}, 0, 0, 0, 0, 0
        for array in tensors.values():
            for way, size in forced_bytes(array).items():
                totals[way] = totals.get(way, 0) + size
            frame = gpucodec.encode(array, threads=1)
            assert gpucodec.decode(frame, threads=1).tobytes() == array.tobytes()
            info = gpucodec.inspect(frame)
            n_models += info.model is not None
            n_packed, n_blocks = n_packed + info.packed_blocks, n_blocks + info.n_blocks
            chosen += frame.size
            n_values += array.size
        n_bytes = sum(array.nbytes for array in tensors.values())
        record("transforms", kind, bits=8 * chosen / n_values, ratio=n_bytes / chosen)
        table.add(
            kind,
            *(f"{8 * totals[way] / n_values:.3f}" for way in WAYS),
            f"{8 * chosen / n_values:.3f}",
            f"{n_bytes / chosen:.4f}",
            f"{n_models} of {len(tensors)}",
            f"{n_packed} of {n_blocks}",
        )
    return table


def speed_table(tensors_of: Iterator[tuple[str, Arrays]], rounds: int) -> Table:
    """Ratio and speed of the profiles, which take turns; x: within the rounds, beside "ratio"."""
    table = Table(
        "Profiles, one core, decoded into memory that is there already",
        ("tensors", "profile", "ratio", "encode GB/s", "x", "decode GB/s", "x"),
        n_left=2,
    )
    for kind, tensors in tensors_of:
        arrays = list(tensors.values())
        n_bytes = sum(array.nbytes for array in arrays)
        outs = [np.empty_like(array) for array in arrays]
        frames = {
            p: [gpucodec.encode(a, TensorConfig(profile=p)) for a in arrays] for p in PROFILES
        }
        seconds: dict[tuple[str, str], list[float]] = {}
        for turn in range(rounds + 1):  # the first is for warming up
            for profile in PROFILES:
                begin = time.thread_time()
                for array in arrays:
                    gpucodec.encode(array, TensorConfig(profile=profile), threads=1)
                middle = time.thread_time()
                for frame, out in zip(frames[profile], outs, strict=True):
                    gpucodec.decode(frame, out, threads=1)
                end = time.thread_time()
                if turn:
                    seconds.setdefault((profile, "encode"), []).append(middle - begin)
                    seconds.setdefault((profile, "decode"), []).append(end - middle)
        for profile in PROFILES:
            cells = [f"{n_bytes / sum(frame.size for frame in frames[profile]):.4f}"]
            for way in ("encode", "decode"):
                mine = seconds[profile, way]
                cells.append(f"{n_bytes / 1e9 / statistics.median(mine):.2f}")
                cells.append(times(measure.relative(seconds["ratio", way], mine)))
            record(
                "transforms",
                f"{kind}, {profile}",
                ratio=float(cells[0]),
                encode_x=measure.relative(seconds["ratio", "encode"], seconds[profile, "encode"]),
                decode_x=measure.relative(seconds["ratio", "decode"], seconds[profile, "decode"]),
            )
            table.add(kind, profile, *cells)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.transforms", description=__doc__)
    parser.add_argument("--size", default="full", help="of the corpus: full or tiny")
    parser.add_argument("--kinds", nargs="+", help="of the first table")
    parser.add_argument("--rounds", type=int, default=9, help="of the second")
    options = parser.parse_args()
    corpus = open_corpus(options.size)
    measure.pin()
    kinds = options.kinds or RATIO_KINDS
    print(ratio_table((kind, corpus.tensors(kind)) for kind in kinds).markdown(), flush=True)
    speeds = ((kind, corpus.tensors(kind)) for kind in SPEED_KINDS)
    print(speed_table(speeds, options.rounds).markdown())


if __name__ == "__main__":
    main()
