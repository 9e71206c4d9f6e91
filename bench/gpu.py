# SPDX-License-Identifier: Apache-2.0
"""Speed on a GPU beside nvCOMP, bitsandbytes, torchao and a device copy, all in one run.

    python -m bench.gpu [--megabytes 256] [--size tiny]     needs a CUDA device and CuPy

The largest tensor of each kind of `bench.corpus` (which is trained first, if it is not there), repeated
up to the size asked for: blocks of all codecs are shorter than the tensor, so that nothing gains by
the repeats. Times are of the device, by events, medians of rounds in which all contestants take turns. The
copy says what this memory can do: *roof* is the share of its traffic, where a codec reads one size and
writes the other. Every decoded bit is compared, and our frames with the CPU's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import TYPE_CHECKING, Any, Final

import numpy as np

import gpucodec
import gpucodec.cuda
from gpucodec.cuda import device as devices, quantize as launches
from gpucodec.dtypes import from_numpy
from gpucodec.frame import parse

from .corpus import Corpus, open_corpus
from .gpu_peers import Contestant, nvcomp, quantizers
from .record import record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .gpu_peers import Work

ROUNDS: Final = 15
WARM_UP: Final = 2  # rounds in which kernels are compiled and pools filled
KINDS: Final = (
    "weights bfloat16",
    "weights float32",
    "exp_avg_sq float32",
    "post-ReLU bfloat16",
    "token ids int64",
)
PROFILES: Final[dict[str, Any]] = {
    "ratio": gpucodec.TensorConfig(),
    "fast": gpucodec.TensorConfig(profile="fast"),
    "plain": gpucodec.TensorConfig(profile="plain"),
}
QUANTIZED: Final = ("int8", "nf4", "dynamic8", "mxfp8_e4m3", "nvfp4", "log8")


def repeated(array: np.ndarray, n_bytes: int) -> np.ndarray:
    """An array repeated along its first axis up to about a size; longer ones are cut."""
    rows = max(1, n_bytes // max(1, array.nbytes // len(array)))
    turns = -(-rows // len(array))
    return np.concatenate([array] * turns)[:rows]


def tensors(corpus: Corpus, n_bytes: int) -> Iterator[tuple[str, np.ndarray]]:
    """One tensor of each kind."""
    for kind in KINDS:
        largest = max(corpus.tensors(kind).values(), key=lambda array: array.nbytes)
        yield kind, repeated(largest, n_bytes)


def milliseconds(cupy: Any, contestants: dict[str, Work]) -> dict[str, float]:
    """Median device time of each on the current stream, after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(ROUNDS + WARM_UP):
        for name, work in contestants.items():
            begin, end = cupy.cuda.Event(), cupy.cuda.Event()
            begin.record()
            work()
            end.record()
            end.synchronize()
            if turn >= WARM_UP:
                times[name].append(cupy.cuda.get_elapsed_time(begin, end))
    return {name: statistics.median(found) for name, found in times.items()}


def ours(cupy: Any, typed: Any, array: np.ndarray) -> Iterator[Contestant]:
    """gpucodec in its profiles, and for integers by LZ alone; headers are on the host, as of a file."""
    configs = dict(PROFILES)
    if array.dtype.kind in "iu":
        configs["LZ"] = gpucodec.LZConfig()
    for name, config in configs.items():
        frame = gpucodec.cuda.encode(typed, config)
        on_host = cupy.asnumpy(frame)
        if on_host.tobytes() != gpucodec.encode(array, config).tobytes():
            raise RuntimeError(f"the GPU's frame of {array.dtype} differs from the CPU's: {name}")
        header = parse(on_host)
        room = cupy.empty(gpucodec.max_encoded_size(array.shape, array.dtype, config), np.uint8)
        out = cupy.empty_like(typed)
        yield Contestant(
            f"gpucodec {name}",
            int(frame.size),
            lambda config=config, room=room: gpucodec.cuda.encode(typed, config, out=room),
            lambda frame=frame, out=out, header=header: gpucodec.cuda.decode_async(
                [frame], [out], headers=[header]
            ),
            lambda out=out: bool((out.view(np.uint8) == typed.view(np.uint8)).all()),
        )


def race(cupy: Any, kind: str, array: np.ndarray, stream: Any) -> None:
    """A row for each contestant and way."""
    words = cupy.asarray(array.reshape(-1).view(np.uint8))
    typed = words.view(array.dtype).reshape(array.shape)
    copy = cupy.empty_like(words)
    found = [*ours(cupy, typed, array), *nvcomp(cupy, words, array.dtype, stream)]
    work: dict[str, Work] = {"copy": lambda: copied(copy, words)}
    for one in found:
        work |= {f"{one.name} encode": one.encode, f"{one.name} decode": one.decode}
    times = milliseconds(cupy, work)
    roof = 2 * array.nbytes / times["copy"]
    row(kind, "copy", "", array.nbytes / times["copy"] / 1e6, 1.0)
    for one in found:
        if not one.check():
            raise RuntimeError(f"{one.name} does not return {kind} as it was")
        ratio = array.nbytes / one.n_bytes
        for way in ("encode", "decode"):
            time = times[f"{one.name} {way}"]
            share = (array.nbytes + one.n_bytes) / time / roof
            gbs = array.nbytes / time / 1e6
            record("gpu", f"{kind}, {one.name}, {way}", gbs=gbs, ratio=ratio, share=share)
            row(kind, f"{one.name} {way}", f"{ratio:.3f}", gbs, share)


def copied(copy: Any, words: Any) -> None:
    copy[...] = words


def row(kind: str, what: str, ratio: str, gbs: float, share: float) -> None:
    print(f"| {kind} | {what} | {ratio} | {gbs:.4g} | {share:.0%} |")


def quantized(cupy: Any, kind: str, array: np.ndarray, stream: Any) -> None:
    """Quantizing and dequantizing without the coding of the parts: share of a copy's traffic."""
    words = cupy.asarray(array.reshape(-1).view(np.uint8))
    out, copy = cupy.empty_like(words), cupy.empty_like(words)
    at, out_at = (one.__cuda_array_interface__["data"][0] for one in (words, out))
    device, dtype = devices.find(0), from_numpy(array.dtype)
    work: dict[str, Work] = {"copy": lambda: copied(copy, words)}
    traffic = {}
    for name in QUANTIZED:
        config = gpucodec.QuantizeConfig(name)
        head = array[: max(1, len(array) >> 6)]
        frame = gpucodec.cuda.encode_quantized(
            words[: head.nbytes].view(array.dtype).reshape(head.shape), config
        )
        if cupy.asnumpy(frame).tobytes() != gpucodec.encode_quantized(head, config).tobytes():
            raise RuntimeError(f"the GPU's {name} differs from the CPU's")

        def quantize(config: gpucodec.QuantizeConfig = config) -> Any:
            return launches.quantize(
                device, at, dtype, array.shape, config, device.current_stream()
            )

        tensor = quantize()
        traffic[name] = array.nbytes + sum(plane.nbytes for plane in tensor.planes.values())
        work[f"{name} quantize"] = quantize
        work[f"{name} dequantize"] = lambda tensor=tensor: launches.dequantize(
            device, [tensor], [out_at], device.current_stream()
        )
    work |= beside(array, stream)
    times = milliseconds(cupy, work)
    roof = 2 * array.nbytes / times.pop("copy")
    for what, time in times.items():
        format_name = what.split()[0]
        share = traffic[format_name] / time / roof if format_name in traffic else None
        gbs = array.nbytes / time / 1e6
        record("gpu", f"{kind}, {what}", gbs=gbs, share=share)
        print(f"| {kind} | {what} | | {gbs:.4g} | {'' if share is None else f'{share:.0%}'} |")


def beside(array: np.ndarray, stream: Any) -> dict[str, Work]:
    """bitsandbytes and torchao on the same values and stream."""
    work: dict[str, Work] = {}
    for coder in quantizers():
        import torch

        values = torch.from_numpy(array.view(np.int16 if array.itemsize == 2 else np.float32))
        if array.itemsize == 2:
            values = values.view(torch.bfloat16)
        try:
            torch.cuda.set_stream(torch.cuda.ExternalStream(stream.ptr))
            given = values.cuda()
            state = coder.quantize(given)
            coder.dequantize(state)
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            print(f"| | {coder.library} {coder.format}: {str(error).splitlines()[0]} | | | |")
            continue
        work[f"{coder.library}: {coder.format} quantize"] = lambda c=coder, x=given: c.quantize(x)
        work[f"{coder.library}: {coder.format} dequantize"] = lambda c=coder, s=state: c.dequantize(
            s
        )
    return work


def small(cupy: Any, n: int) -> None:
    """Many small tensors: decoded in one batch, and one by one."""
    array = np.random.default_rng(0).normal(0, 0.02, 256).astype(np.float32)
    frame = cupy.asarray(gpucodec.encode(array, PROFILES["plain"]))
    outs = [cupy.empty(array.shape, array.dtype) for _ in range(n)]
    headers = [parse(cupy.asnumpy(frame))] * n

    def one_by_one() -> None:
        for out, header in zip(outs, headers, strict=True):
            gpucodec.cuda.decode_async([frame], [out], headers=[header])

    work: dict[str, Work] = {
        "in a batch": lambda: gpucodec.cuda.decode_async([frame] * n, outs, headers=headers),
        "one by one": one_by_one,
    }
    times = milliseconds(cupy, work)
    factor = times["one by one"] / times["in a batch"]
    for what, time in times.items():
        print(f"| {n} tensors of {array.nbytes} bytes | decode {what}: {time:.1f} ms | | | |")
    print(f"| | the batch is {factor:.1f} times as fast | | | |")
    record("gpu", "small tensors", x=factor, n=n)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--megabytes", type=float, default=256, help="of each tensor")
    parser.add_argument("--size", default="full", help="of the corpus: full or tiny")
    parser.add_argument("--small", type=int, default=10_000, help="number of small tensors")
    options = parser.parse_args(arguments)
    try:
        devices.find(0)
    except gpucodec.UnsupportedError as error:
        sys.exit(f"not measured: {error}")
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(0)
    print(f"{properties['name'].decode()}, CuPy {cupy.__version__}, median of {ROUNDS}\n")
    print("| data | what | ratio | GB/s | roof |\n|---|---|---|---|---|")
    stream = cupy.cuda.Stream(non_blocking=True)
    found = dict(tensors(open_corpus(options.size), int(options.megabytes * (1 << 20))))
    with stream:
        for kind, array in found.items():
            race(cupy, kind, array, stream)
        for kind in ("weights float32", "weights bfloat16"):
            quantized(cupy, kind, found[kind], stream)
        small(cupy, options.small)


if __name__ == "__main__":
    main()
