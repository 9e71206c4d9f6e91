# SPDX-License-Identifier: Apache-2.0
"""Arrays to files and back through zarr, beside zarr's own codecs, numcodecs' and tensorstore.

    python -m bench.zarr_io [--mib 256] [--rounds 5] [--folder FOLDER]

Whole arrays are written and read by the public calls of each library, with the threads it takes by
itself; then rows here and there. Speeds are GB of decoded data a second by the wall clock, medians of rounds in
which all take turns; CPU is that of all threads, in seconds for a GB. Files are not forced to the disk and are read
from the page cache: the disk is the same for all, and smaller for those who write less. Chunks are 4 MiB.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import rich.console
import zarr
from zarr.codecs import BloscCodec

from gpucodec.zarr import TensorCodec, enable

from .corpus import open_corpus
from .lossless import WIDTH
from .measure import machine, no_collection
from .record import record
from .tables import Table

ROW: Final = 4096  # elements
CHUNK_BYTES: Final = 4 << 20
SLICE_ROWS: Final = 4
N_SLICES: Final = 50
KINDS: Final = ("weights bfloat16", "weights float32", "token ids int64")
STOCK: Final = "zarr.core.codec_pipeline.BatchedCodecPipeline"


@dataclass
class Contestant:
    """A way to store an array in a folder."""

    name: str
    write: Callable[[Path, np.ndarray], None]
    open: Callable[[Path], Any]
    """An array that reads when it is sliced."""
    seconds: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    n_bytes: int = 0

    def timed(self, what: str, work: Callable[[], Any]) -> Any:
        begin, cpu = time.perf_counter(), time.process_time()
        result = work()
        spent = time.perf_counter() - begin, time.process_time() - cpu
        self.seconds.setdefault(what, []).append(spent)
        return result


def chunks(array: np.ndarray) -> tuple[int, int]:
    return CHUNK_BYTES // (ROW * array.itemsize), ROW


def with_zarr(name: str, *, pipeline: Any = nullcontext, **codecs: Any) -> Contestant:
    """zarr with given codecs."""

    def write(folder: Path, array: np.ndarray) -> None:
        with pipeline():
            zarr.create_array(folder, data=array, chunks=chunks(array), overwrite=True, **codecs)

    def opened(folder: Path) -> Any:
        with pipeline():
            return zarr.open_array(folder, mode="r")

    return Contestant(name, write, opened)


class Tensorstore:
    """An array of tensorstore as one that reads when it is sliced."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __getitem__(self, key: Any) -> np.ndarray:
        return self.array[key].read().result()  # type: ignore[no-any-return]


def with_tensorstore(name: str, *codecs: dict[str, Any]) -> Contestant:
    """tensorstore's zarr3 driver with given codecs."""
    import tensorstore

    def spec(folder: Path) -> dict[str, Any]:
        return {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder)}}

    def write(folder: Path, array: np.ndarray) -> None:
        little = {"name": "bytes", "configuration": {"endian": "little"}}
        grid = {"name": "regular", "configuration": {"chunk_shape": chunks(array)}}
        metadata = {
            "shape": array.shape,
            "data_type": str(array.dtype),
            "chunk_grid": grid,
            "codecs": [little, *codecs],
        }
        made = tensorstore.open(
            spec(folder) | {"metadata": metadata}, create=True, delete_existing=True
        ).result()
        made.write(array).result()

    return Contestant(name, write, lambda f: Tensorstore(tensorstore.open(spec(f)).result()))


def contestants(dtype: np.dtype[Any]) -> Iterator[Contestant]:
    """All that can store elements of a type; ours first."""
    ours = {"serializer": TensorCodec(), "compressors": None}
    width = dtype.itemsize
    yield with_zarr("gpucodec", pipeline=enable, **ours)
    stock = {"codec_pipeline.path": STOCK}
    yield with_zarr("gpucodec, zarr's pipeline", pipeline=lambda: zarr.config.set(stock), **ours)
    yield with_zarr("zarr, uncompressed", compressors=None)
    yield with_zarr("zarr, zstd (its default)", compressors="auto")
    for cname, shuffle in (("zstd", "shuffle"), ("lz4", "bitshuffle")):
        blosc = BloscCodec(typesize=width, cname=cname, clevel=3, shuffle=shuffle)
        yield with_zarr(f"zarr, Blosc {shuffle}+{cname}", compressors=blosc)
    if dtype.kind in "fiu" and width > 1:
        from zarr.codecs.numcodecs import PCodec

        yield with_zarr("numcodecs, pcodec", serializer=PCodec(level=8), compressors=None)
    try:
        yield with_tensorstore("tensorstore, uncompressed")
        options = {"cname": "zstd", "clevel": 3, "shuffle": "shuffle", "typesize": width}
        blosc_spec = {"name": "blosc", "configuration": options | {"blocksize": 0}}
        yield with_tensorstore("tensorstore, Blosc shuffle+zstd", blosc_spec)
    except ImportError as error:
        print(f"left out: {error}")


def race(kind: str, array: np.ndarray, folder: Path, rounds: int) -> Table:
    """Every contestant in every round; the first is for warming up and for comparing every bit."""
    found = list(contestants(array.dtype))
    starts = np.random.default_rng(0).integers(0, len(array) - SLICE_ROWS, N_SLICES)
    with no_collection():
        for turn in range(rounds + 1):
            for one in found:
                place = folder / "array"
                one.timed("write", lambda one=one, place=place: one.write(place, array))
                stored = one.open(place)
                back = one.timed("read", lambda stored=stored: stored[...])
                rows = one.timed(
                    "rows", lambda stored=stored: [stored[s : s + SLICE_ROWS] for s in starts]
                )
                if turn == 0:
                    same = np.asarray(back).tobytes() == array.tobytes()
                    for start, part in zip(starts, rows, strict=True):
                        wanted = array[start : start + SLICE_ROWS]
                        same &= np.asarray(part).tobytes() == wanted.tobytes()
                    if not same:
                        raise RuntimeError(f"{one.name} does not return {kind} as it was")
                    one.n_bytes = sum(p.stat().st_size for p in place.rglob("*") if p.is_file())
                    one.seconds.clear()
                shutil.rmtree(place)
    return table(kind, array, found)


def table(kind: str, array: np.ndarray, found: list[Contestant]) -> Table:
    columns = ("way", "ratio", "write GB/s", "CPU s/GB", "read GB/s", "CPU s/GB", "4 rows, ms")
    made = Table(f"{kind}, {array.nbytes / 1e6:.0f} MB", columns)
    size = array.nbytes / 1e9
    for one in found:
        wall = {k: statistics.median(w for w, _ in rows) for k, rows in one.seconds.items()}
        cpu = {k: statistics.median(c for _, c in rows) for k, rows in one.seconds.items()}
        ratio, slice_ms = array.nbytes / one.n_bytes, 1e3 * wall["rows"] / N_SLICES
        record(
            "zarr_io",
            f"{kind}, {one.name}",
            ratio=ratio,
            write_gbs=size / wall["write"],
            read_gbs=size / wall["read"],
            slice_ms=slice_ms,
        )
        made.add(
            one.name,
            f"{ratio:.3f}",
            f"{size / wall['write']:.2f}",
            f"{cpu['write'] / size:.2f}",
            f"{size / wall['read']:.2f}",
            f"{cpu['read'] / size:.2f}",
            f"{slice_ms:.2f}",
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.zarr_io", description=__doc__)
    parser.add_argument("--mib", type=int, default=256, help="of each array")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", default="full", help="of the corpus: full or tiny")
    parser.add_argument(
        "--folder", type=Path, help="where arrays are written; by default temporary"
    )
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(machine())
    corpus = open_corpus(options.size)
    console = rich.console.Console()
    if not console.is_terminal:
        console.width = WIDTH
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for kind in KINDS:
            flat = corpus.flat(kind)
            rows = (options.mib << 20) // (ROW * flat.itemsize)
            array = np.resize(flat, (rows, ROW))  # repeats are far beyond a chunk
            race(kind, array, Path(folder), options.rounds).show(console)


if __name__ == "__main__":
    main()
