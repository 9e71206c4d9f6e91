# SPDX-License-Identifier: Apache-2.0
"""Quantization against the libraries that define the formats: speed, error, optimizer updates.

``python -m bench.quantize`` prints three tables. Speeds are GB of float32 per second of CPU time
on one pinned core, public calls, results in memory that malloc has had before, all contestants in
turn; errors are of the same arrays, real ones from `bench.corpus` among them. Peers that are not
installed are left out.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gpucodec.quant import (
    QuantizeConfig,
    decode_quantized,
    dequantize,
    encode_quantized,
    quantize,
)

from .corpus import Corpus, open_corpus
from .measure import keep_freed_memory, machine, no_collection, pin, timed
from .record import record

Array = NDArray[np.float32]

ELEMENTS: Final = 1 << 24  # 64 MiB: not in any cache
ROW: Final = 4096
SHAPES: Final = ("N(0,1)", "Laplace", "t(df3)")
REAL: Final = {
    "w": "weights float32",
    "m": "exp_avg float32",
    "v": "exp_avg_sq float32",
    "g": "gradients float32",
    "act": "pre-ReLU bfloat16",
}
EPSILON: Final = 1e-8  # Adam's
OURS: Final = {
    "int8": QuantizeConfig("int8"),
    "int8 B32": QuantizeConfig("int8", 32),
    "int4": QuantizeConfig("int4"),
    "int4_asym": QuantizeConfig("int4_asym"),
    "nf4": QuantizeConfig("nf4"),
    "dynamic8": QuantizeConfig("dynamic8"),
    "mxfp8_e4m3": QuantizeConfig("mxfp8_e4m3"),
    "mxfp8_e4m3 floor": QuantizeConfig("mxfp8_e4m3", scaling_mode="floor"),
    "mxfp8_e5m2": QuantizeConfig("mxfp8_e5m2"),
    "mxfp6_e2m3": QuantizeConfig("mxfp6_e2m3"),
    "mxfp6_e3m2": QuantizeConfig("mxfp6_e3m2"),
    "mxfp4": QuantizeConfig("mxfp4"),
    "nvfp4": QuantizeConfig("nvfp4"),
    "log8": QuantizeConfig("log8"),
    "log8 axis=auto": QuantizeConfig("log8", axis="auto"),
}


@dataclass(frozen=True)
class Coder:
    """One library's way to and from a format; ``format`` names the one of ours that it matches."""

    library: str
    format: str
    prepare: Callable[[Array], Any]
    quantize: Callable[[Any], Any]
    dequantize: Callable[[Any], Any]


def ours() -> Iterator[Coder]:
    for name, config in OURS.items():
        yield Coder(
            "gpucodec",
            name,
            lambda x: x,
            lambda x, config=config: quantize(x, config, threads=1),
            lambda q: dequantize(q, threads=1),
        )


def gguf_coders() -> Iterator[Coder]:
    from gguf import GGMLQuantizationType as Type, quants

    for ours_name, kind in (
        ("int8 B32", Type.Q8_0),
        ("int4", Type.Q4_0),
        ("int4_asym", Type.Q4_1),
    ):
        yield Coder(
            "gguf",
            ours_name,
            lambda x: x,
            lambda x, kind=kind: quants.quantize(x, kind),
            lambda q, kind=kind: quants.dequantize(q, kind),
        )


def bitsandbytes_coders() -> Iterator[Coder]:
    import torch
    from bitsandbytes import functional

    yield Coder(
        "bitsandbytes",
        "dynamic8",
        torch.from_numpy,
        lambda x: functional.quantize_blockwise(x, blocksize=256),
        lambda q: functional.dequantize_blockwise(*q),
    )
    yield Coder(
        "bitsandbytes",
        "nf4",
        torch.from_numpy,
        lambda x: functional.quantize_4bit(x, blocksize=64, quant_type="nf4"),
        lambda q: functional.dequantize_4bit(*q),
    )


def torchao_coders() -> Iterator[Coder]:
    import torch
    from torchao.prototype.mx_formats import config, mx_tensor, nvfp4_tensor

    mode = config.ScaleCalculationMode
    for name, element, scaling in (
        ("mxfp8_e4m3", torch.float8_e4m3fn, mode.RCEIL),
        ("mxfp8_e4m3 floor", torch.float8_e4m3fn, mode.FLOOR),
        ("mxfp8_e5m2", torch.float8_e5m2, mode.RCEIL),
        ("mxfp6_e2m3", "fp6_e2m3", mode.RCEIL),
        ("mxfp6_e3m2", "fp6_e3m2", mode.RCEIL),
        ("mxfp4", torch.float4_e2m1fn_x2, mode.RCEIL),
    ):
        yield Coder(
            "torchao",
            name,
            torch.from_numpy,
            lambda x, e=element, s=scaling: mx_tensor.MXTensor.to_mx(x, e, 32, s),
            lambda q: q.dequantize(torch.float32),
        )

    def to_nvfp4(x: Any) -> Any:
        scale = nvfp4_tensor.per_tensor_amax_to_scale(x.abs().max())
        return nvfp4_tensor.NVFP4Tensor.to_nvfp4(x, per_tensor_scale=scale)

    yield Coder(
        "torchao",
        "nvfp4",
        torch.from_numpy,
        to_nvfp4,
        lambda q: q.dequantize(torch.float32),
    )


def coders() -> list[Coder]:
    """Ours, then those of the peers that are installed."""
    found = list(ours())
    logging.disable(logging.CRITICAL)  # they talk when imported
    for peer in (gguf_coders, bitsandbytes_coders, torchao_coders):
        try:
            found += peer()
        except ImportError as error:
            print(f"left out: {error}")
    return found


def snr(x: Array, decoded: Array) -> float:
    """Signal to noise, in dB."""
    wide = x.astype(np.float64)
    noise = float(((wide - decoded) ** 2).sum())
    return 10 * np.log10(float((wide**2).sum()) / noise) if noise else float("inf")


def speeds(found: list[Coder], rounds: int) -> None:
    """The table of speeds."""
    x = np.random.default_rng(0).normal(size=(ELEMENTS // ROW, ROW)).astype(np.float32)
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with no_collection():
        for turn in range(rounds + 1):  # the first is for warming up
            for coder in found:
                value = coder.prepare(np.abs(x) if coder.format.startswith("log8") else x)
                encode, state = timed(coder.quantize, value, time.process_time)
                decode, _ = timed(coder.dequantize, state, time.process_time)
                if turn:
                    times.setdefault((coder.library, coder.format), []).append((encode, decode))
    rates = {
        key: tuple(x.nbytes / 1e9 / statistics.median(column) for column in zip(*rows, strict=True))
        for key, rows in times.items()
    }
    print("\nGB/s of float32, one core:    quantize dequantize   peer      q     d    times faster")
    for (library, name), (encode, decode) in rates.items():
        if library != "gpucodec":
            continue
        line = f"{name:28} {encode:9.2f} {decode:9.2f}"
        beside = {
            peer: (encode / theirs, decode / back)
            for (peer, other), (theirs, back) in rates.items()
            if other == name and peer != "gpucodec"
        }
        record("quantize", f"speed {name}", quantize=encode, dequantize=decode, times=beside)
        for (peer, other), (theirs, back) in rates.items():
            if other == name and peer != "gpucodec":
                line += f"   {peer:12} {theirs:5.2f} {back:5.2f}  {encode / theirs:5.1f} {decode / back:5.1f}"
        print(line)


def arrays(corpus: Corpus | None) -> dict[str, Array]:
    """What errors are measured on, rows of 4,096."""
    rng = np.random.default_rng(1)
    n = (1 << 20) // ROW, ROW
    made = {
        "N(0,1)": rng.normal(size=n),
        "Laplace": rng.laplace(size=n),
        "t(df3)": rng.standard_t(3, size=n),
    }
    found = {name: values.astype(np.float32) for name, values in made.items()}
    if corpus is not None:
        for name, kind in REAL.items():
            flat = corpus.flat(kind).astype(np.float32)
            found[name] = flat[: flat.size // ROW * ROW].reshape(-1, ROW)
    return found


def errors(found: list[Coder], corpus: Corpus | None) -> None:
    """The table of errors; a peer's figure where it differs by more than 0.05 dB."""
    tensors = arrays(corpus)
    print("\nSNR in dB" + "".join(f"{name:>12}" for name in ("bits", *tensors)))
    widest = 0.0
    for name, config in OURS.items():
        line = f"{name:18}"
        bits = None
        for x in tensors.values():
            values = np.abs(x) if config.format == "log8" else x
            stored = quantize(values, config)
            bits = (
                bits
                or 8 * (stored.nbytes - stored.positions.nbytes - stored.values.nbytes) / x.size
            )
            mine = snr(values, stored.dequantize())
            cell = f"{mine:.1f}"
            for peer in (c for c in found if c.format == name and c.library != "gpucodec"):
                theirs = snr(x, np.asarray(peer.dequantize(peer.quantize(peer.prepare(x)))))
                widest = max(widest, abs(mine - theirs)) if peer.library != "gguf" else widest
                if abs(mine - theirs) > 0.05:
                    cell += f" ({theirs:.1f})"
            line += f"{cell:>12}"
        print(f"{line[:18]}{bits:9.2f}{line[18:]}")
    record("quantize", "errors", widest_db=widest)
    print(f"largest difference to torchao and bitsandbytes: {widest:.3f} dB")
    print("(in brackets: the peer's figure; GGUF rounds its scales to float16)")


def updates(corpus: Corpus) -> None:
    """What each format of v does to Adam's step, with m exact; and what it costs on disk."""
    tensors = corpus.tensors("exp_avg_sq float32")
    moments = corpus.tensors("exp_avg float32")
    print("\nv in                     bits   bits coded   became 0   update SNR dB   max |u|")
    formats = {**OURS, "int8 B32 f16": QuantizeConfig("int8", 32, "f16")}
    for name, config in formats.items():
        signal = noise = coded = zeros = peak = size = memory = 0.0
        for key, v in tensors.items():
            frame = encode_quantized(v, config)
            stored = decode_quantized(frame, dequantize=False)
            decoded = stored.dequantize()
            exact, step = (
                moments[key] / (np.sqrt(a.astype(np.float64)) + EPSILON) for a in (v, decoded)
            )
            signal += float((exact**2).sum())
            noise += float(((exact - step) ** 2).sum())
            zeros += int(((v != 0) & (decoded == 0)).sum())
            peak = max(peak, float(np.abs(step).max()))
            size, coded, memory = (
                size + v.size,
                coded + 8 * frame.nbytes,
                memory + 8 * stored.nbytes,
            )
        snr_db = 10 * np.log10(signal / noise)
        record("quantize", f"update {name}", bits=memory / size, coded=coded / size, snr_db=snr_db)
        print(
            f"{name:22} {memory / size:7.2f} {coded / size:9.2f} {100 * zeros / size:11.3f} % "
            f"{10 * np.log10(signal / noise):11.1f} {peak:12.3g}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.quantize", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--synthetic", action="store_true", help="no tensors of a trained model")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    pin()
    keep_freed_memory()
    try:
        import torch

        torch.set_num_threads(1)
    except ImportError:
        pass
    print(machine())
    found = coders()
    speeds(found, options.rounds)
    corpus = None if options.synthetic else open_corpus()
    errors(found, corpus)
    if corpus is not None:
        updates(corpus)


if __name__ == "__main__":
    main()
