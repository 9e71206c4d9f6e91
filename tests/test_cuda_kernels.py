# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels without a GPU: NVRTC compiles them, and the shim runs them on the host.

Promise 2 (every engine writes the same bytes and reads the others') and promise 8 (arbitrary
bytes do no harm) for the CUDA half; docs/gpu.md says what this proves and what it cannot.
"""

from __future__ import annotations

import importlib
import inspect
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cuda_nvrtc
import cuda_sanitized
import cuda_shim
import make_frames
import mutate
import numpy as np
import pytest
import seeds
from cuda_shim import ORDERS, ShimDevice, ShimError
from golden_inputs import golden_inputs
from helpers import CONTENTS, NAMES, numpy_dtype, sample

import gpucodec
from gpucodec import TensorConfig, buffers, cpu, frame as container
from gpucodec.cuda import batch, decoding, encoding, models
from gpucodec.kernels import cuda, spec

PLAIN = TensorConfig(profile="plain")
needs_shim = pytest.mark.skipif(not cuda_shim.available(), reason="needs g++ on x86-64 Linux")
needs_nvrtc = pytest.mark.skipif(
    cuda_nvrtc.library() is None,
    reason="needs the wheel nvidia-cuda-nvrtc: pip install 'gpucodec[cuda-compile]'",
)
orders = pytest.mark.parametrize("order", range(len(ORDERS)), ids=ORDERS)


@needs_nvrtc
@pytest.mark.parametrize("architecture", cuda_nvrtc.ARCHITECTURES)
@pytest.mark.parametrize("module", [name for name in cuda.MODULES if "quantize_" not in name])
def test_kernels_compile_and_keep_their_variables_in_registers(module, architecture):
    log, cubin = cuda_nvrtc.compile_module(cuda.source(module), architecture)
    found = cuda_nvrtc.functions(log)
    assert found.keys() == cuda.kernels(module).keys()
    assert "warning" not in log, log
    assert len(cubin) > 1000
    for name, compiled in found.items():
        print(architecture, name, compiled)
        assert compiled.spilled == compiled.stack == 0, name
        assert compiled.shared <= 48 << 10, name  # what needs no opt-in


@needs_nvrtc
def test_a_mistake_is_reported_with_file_and_line():
    text = cuda.source("decode").replace("KERNEL hash_bytes(", "int x = y;\nKERNEL hash_bytes(")
    with pytest.raises(AssertionError, match=r"checksum\.cu\(\d+\): error"):
        cuda_nvrtc.compile_module(text, "sm_80")


def c_functions(stem: str) -> dict[str, list[str]]:
    """Parameters of the functions of a .cu file."""
    text = (cuda.FOLDER / f"{stem}.cu").read_text()
    found = {}
    for name, parameters in re.findall(
        r"^(?:KERNEL|DEVICE \w+) (\w+)\(([^)]*)\)", text, re.MULTILINE
    ):
        found[name] = re.findall(r"(\w+)(?:,|$)", parameters)
    return found


# What a Python half has and a CUDA half gets in other ways: memory of its own, batches.
NOT_IN_C = {"scratch", "states", "sources", "raw"}
PAIRED = {
    "checksum": {"xxh3", "hash_bytes"},
    "planes": {"raw_plane_bytes", "split", "merge", "pack_bits"},
    "rans": {"table_bytes", "decode_plane", "frequency_width", "encode"},
    "choose": {"log2_fixed", "normalise", "encode_plane"},
    "entries": {"aligned", "payload_bytes", "locate_payloads"},
    "palette": {"plan"},
    "profiles": {"encode_plane"},
    "predictor": {"shift_words"},
    "minifloat": {"encode_magnitude", "decode_magnitude", "encode_signed", "widened", "narrowed"},
    "scales": {"store_scale", "load_scale", "scale_value", "extent_scale", "log8_scale"},
}


@pytest.mark.parametrize("stem", PAIRED)
def test_pairs_have_the_same_names(stem):
    """The pair contract: the functions of the two halves, and what they are given."""
    half = importlib.import_module(f"gpucodec.kernels.{stem}")
    in_c = c_functions(stem)
    for name in PAIRED[stem]:
        function = getattr(half, name)
        parameters = inspect.signature(getattr(function, "py_func", function)).parameters
        shared = [p for p in parameters if p in in_c[name]]
        assert shared == [p for p in in_c[name] if p in parameters], name
        n_given = len(parameters.keys() - {"form"})  # which is a template's
        assert len(shared) >= min(2, n_given) - (stem == "planes"), (name, shared)


# --- what the shim must notice ------------------------------------------------------------------


WRITE = "u32 i = thread_index(); shared[i] = i;"
READ = "out[i] = shared[63 - i];"
PROBES = {
    "sound": f"{WRITE} sync_block(); {READ}",
    "no_barrier": f"{WRITE} sync_warp(); {READ}",
    "half_a_warp": "if (lane_index() < 16) sync_warp();",
    "half_a_block": "if (thread_index() < 32) sync_block();",
    "divergent": "if (lane_index() < 16) sync_warp(); else ballot(true);",
    "partial": "out[0] = __ballot_sync(0xFF, true);",
}


def probe(name: str, order: int, seed: int = 1) -> np.ndarray:
    """Run one of the small kernels above on two warps; what it writes."""
    kernels = "".join(
        f"KERNEL {key}(u32* out) {{ __shared__ u32 shared[64]; shared[0] = out[0] = 0; {body} }}\n"
        for key, body in PROBES.items()
    )
    device = ShimDevice(order, seed, cuda_shim.build((), extra=kernels))
    out = device.allocate(256)
    device.launch(name, 1, 64, [out.address])
    return out.array.view(np.uint32).copy()


@needs_shim
def test_the_shim_runs_barriers():
    for order in range(len(ORDERS)):
        for seed in range(20):
            assert (probe("sound", order, seed) == np.arange(64)[::-1]).all()


@needs_shim
@orders
def test_the_shim_notices_a_missing_barrier(order):
    runs = [probe("no_barrier", order, seed) for seed in range(20)]
    assert sum((out != np.arange(64)[::-1]).any() for out in runs) >= 5


@needs_shim
@orders
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("half_a_warp", "deadlock"),
        ("half_a_block", "deadlock"),
        ("divergent", "different collectives"),
        ("partial", "partial mask"),
    ],
)
def test_the_shim_notices_what_cuda_leaves_undefined(name, message, order):
    with pytest.raises(ShimError, match=message):
        probe(name, order)


@needs_shim
@pytest.mark.parametrize("missing", range(1, 6))
def test_a_barrier_taken_from_the_decoder_is_missed(missing):
    """Each of them is there for a reason: without it some order of threads gives wrong results."""

    def without(text: str) -> str:
        start = text.index('"decode.cu"') if missing <= 3 else text.index("xxh3_of(Source")
        at = start
        for _ in range((missing - 1) % 3 + 1):
            at = text.index("sync_block();", at + 1)
        return text[:at] + text[at + len("sync_block();") :]

    array = np.random.default_rng(0).normal(0, 0.02, 40_000).astype(np.float32)
    frame = gpucodec.encode(array, PLAIN)
    damaged = frame.copy()
    damaged[-1] ^= 1  # of a raw plane: the hash notices, and the only block becomes zeros
    expected = [array.tobytes(), bytes(array.nbytes)]
    shim = cuda_shim.build(cuda.MODULES["decode"], change=without)
    noticed = 0
    for seed in range(12):
        try:
            decoded, *_ = decode_on_shim([frame, damaged], ShimDevice(1 + seed % 2, seed, shim))
        except ShimError:
            noticed += 1
        else:
            noticed += [d.tobytes() for d in decoded] != expected
    assert noticed


# --- decoding -----------------------------------------------------------------------------------


def decode_on_shim(frames, device):
    """Decode frames in one batch; the decoded bytes, the statuses and model errors of each."""
    pieces, outputs = [], []
    for frame in frames:
        raw = np.frombuffer(frame, np.uint8)
        parsed = container.parse(raw)
        out = device.allocate(parsed.decoded_bytes)
        outputs.append(out)
        payload = raw[parsed.payloads :]
        pieces.append(decoding.Piece(parsed, payload, out.address, 0, parsed.n_blocks))
    queued = decoding.decode(device, pieces, 0)
    sizes = [piece.frame.decoded_bytes for piece in pieces]
    decoded = [o.array[:n].copy() for o, n in zip(outputs, sizes, strict=True)]
    return decoded, queued.statuses(), queued.model_errors()


@needs_shim
@pytest.mark.parametrize("n", [0, 1, 64, 255, 256, 257, 1024, 1025, 5000, 65_536, 70_001])
def test_hash_is_the_same(n):
    from gpucodec.kernels.checksum import hash_bytes

    raw = np.random.default_rng(n).integers(0, 256, n, np.uint8)
    for order in range(len(ORDERS)):
        device = ShimDevice(order, n)
        source, target = device.allocate(n), device.allocate(8)
        device.upload(source.address, raw)
        device.launch("hash_bytes", 1, 32 << order, [source.address, n, target.address])
        assert target.array.view(np.uint64)[0] == hash_bytes(raw)


NOT_TO_DECODE = {"locate_payloads", "hash_bytes"}


@needs_shim
@orders
def test_every_feature_decodes_on_the_shim(order):
    """The seeds use all of the format; the random frames use it as no encoder would."""
    made = [*seeds.all_seeds().values(), *make_frames.random_frames(21, 500)]
    assert len(made) > 100
    device = ShimDevice(order, 11)
    decoded, statuses, errors = decode_on_shim([m.frame for m in made], device)
    assert not errors
    for m, got, status in zip(made, decoded, statuses, strict=True):
        assert not status.any(), m.label
        assert got.tobytes() == m.raw, m.label
    modules = [module for module in cuda.MODULES if "decode" in module]
    kernels = {name for module in modules for name in cuda.kernels(module)}
    assert {*device.calls} - {"download"} == kernels - NOT_TO_DECODE
    assert device.calls.count("decode_full_blocks") == 1


@needs_shim
def test_batches_larger_than_the_scratch_memory_decode_in_waves(monkeypatch):
    monkeypatch.setattr(batch, "SCRATCH_BYTES", 1 << 18)
    arrays = [np.random.default_rng(i).normal(0, 0.02, 70_000).astype("f4") for i in range(5)]
    device = ShimDevice(1, 3)
    decoded, statuses, _ = decode_on_shim([gpucodec.encode(a, PLAIN) for a in arrays], device)
    assert device.calls.count("decode_blocks") >= 3
    for got, array, status in zip(decoded, arrays, statuses, strict=True):
        assert not status.any()
        assert got.tobytes() == array.tobytes()


def mutants(count: int, seed: int):
    """Mutated frames whose headers and tables hold, so that they reach the kernels."""
    made = [*seeds.all_seeds().values(), *make_frames.random_frames(11, 150, 200)]
    parts = [mutate.Parts(m.frame) for m in made]
    rng = random.Random(seed)
    while count:
        frame = mutate.mutant(rng.choice(parts), rng, parts)
        try:
            parsed = container.parse(frame, limit=1 << 18)
        except gpucodec.GpucodecError:
            continue
        try:
            if parsed.flags & spec.PREDICTED:
                models.section(parsed)
        except gpucodec.CorruptionError:  # a model section that is none: the CPU says so, too
            with pytest.raises(gpucodec.CorruptionError):
                cpu_verdict(frame, parsed)
            continue
        count -= 1
        yield frame, parsed


def cpu_verdict(frame, parsed):
    """What the CPU decodes, and its statuses."""
    expected = np.zeros(parsed.n_blocks, np.uint8)
    out = np.zeros(parsed.decoded_bytes, np.uint8)
    payload = np.frombuffer(frame, np.uint8)[parsed.payloads :]
    for _, work in cpu.decode_jobs(parsed, payload, 0, parsed.n_blocks, out, expected):
        work()
    return out, expected


def assert_as_by_the_cpu(frame, parsed, got, status, error=None):
    """Bytes and statuses of the blocks, or the error of the model, are those that the CPU finds."""
    if error is not None:
        with pytest.raises(gpucodec.CorruptionError) as caught:
            cpu_verdict(frame, parsed)
        assert str(caught.value) == str(error)
        return
    out, expected = cpu_verdict(frame, parsed)
    assert (status == expected).all(), (status, expected)
    for b in np.flatnonzero(expected):  # what is not sound becomes zeros
        out[b * parsed.block_bytes : (b + 1) * parsed.block_bytes] = 0
    assert (got == out).all()


def judge_mutants(count: int, seed: int, device: ShimDevice) -> np.ndarray:
    """Decode mutants in one batch on the shim and one by one on the CPU; how often each status."""
    frames = list(mutants(count, seed))
    decoded, statuses, errors = decode_on_shim([frame for frame, _ in frames], device)
    seen = np.zeros(16, np.int64)
    for i, ((frame, parsed), got, status) in enumerate(zip(frames, decoded, statuses, strict=True)):
        assert_as_by_the_cpu(frame, parsed, got, status, errors.get(i))
        if i in errors:
            seen[-1] += 1
            continue
        seen += np.bincount(status, minlength=16)
    return seen


@needs_shim
@orders
def test_mutants_are_judged_as_by_the_cpu(order):
    seen = judge_mutants(2_000, order, ShimDevice(order, order))
    assert (seen[:9] > 0).all(), seen  # every status occurs, but one: see below
    assert seen[-1], "no damage of models"


def with_entry(frame: np.ndarray, block: int, plane: int, entry: int) -> np.ndarray:
    """The frame with another entry, and a hash that says so."""
    parsed, changed = container.parse(frame), frame.copy()
    at = spec.HEADER_BYTES + 8 * len(parsed.shape) + parsed.hashes.nbytes
    table = changed[at : at + parsed.entries.nbytes].view("<u4").reshape(parsed.entries.shape)
    table[block, plane] = entry
    digest = container.table_hash(changed[: parsed.payloads])
    changed[24:32] = np.frombuffer(digest.to_bytes(8, "little"), np.uint8)
    return changed


@needs_shim
@pytest.mark.parametrize("rest", [1, 2])
def test_a_mask_that_names_words_beyond_the_block_is_found(rest):
    array = np.zeros(4_096 + rest, np.float32)
    array[4_096:] = 1  # only the words of the last block are all there
    frame = gpucodec.encode(array, TensorConfig(256, lz=False))
    assert container.parse(frame).flags & spec.SPARSE
    packed = with_entry(frame, 16, 0, spec.CONSTANT << spec.ENTRY_CODER_SHIFT | (1 << rest + 1) - 1)
    _, [status], _ = decode_on_shim([packed], ShimDevice(2, 1))
    assert status.tolist() == [0] * 16 + [spec.BAD_MASK]
    assert (status == cpu_verdict(packed, container.parse(packed))[1]).all()


@needs_shim
@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 120))
def test_many_mutants_are_judged_as_by_the_cpu(seed):
    judge_mutants(20_000, seed, ShimDevice(seed % 3, seed))


# --- encoding -----------------------------------------------------------------------------------


def plain(config) -> TensorConfig:
    """The same block size, and coders that the kernels know."""
    return replace(config, profile="plain") if isinstance(config, TensorConfig) else PLAIN


def encode_on_shim(items, device):
    """Encode (array, config) pairs in one batch; the frames."""
    sources, memory = [], []
    for array, config in items:
        words, dtype, shape = buffers.elements(array)
        block_log = config.block_log(dtype.spec.word_bytes)
        raw = device.allocate(words.size)
        device.upload(raw.address, words)
        source = encoding.Source(raw.address, dtype, shape, block_log, 0)
        out = device.allocate(source.max_bytes)
        source.out = out.address
        sources.append(source)
        memory.append((raw, out))
    sizes = encoding.encode(device, sources, 0)
    return [out.array[:size].copy() for (_, out), size in zip(memory, sizes, strict=True)]


@needs_shim
@orders
def test_the_shim_writes_the_same_bytes(order):
    """All golden inputs: every type, edge sizes, contents that make the encoder choose all ways."""
    inputs = [(label, array, plain(config)) for label, array, config in golden_inputs()]
    frames = encode_on_shim([(a, c) for _, a, c in inputs], ShimDevice(order, 5))
    for (label, array, config), frame in zip(inputs, frames, strict=True):
        assert frame.tobytes() == gpucodec.encode(array, config).tobytes(), label


def random_inputs(seed: int, count: int):
    """Arrays of all types and sizes, with block sizes, contents and tables of all kinds."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        name = NAMES[rng.integers(len(NAMES))]
        n = int(rng.choice([rng.integers(1, 300), rng.integers(300, 5_000), 64 * 20, 40_000]))
        if rng.random() < 0.5:
            array = sample(name, n, CONTENTS[rng.integers(len(CONTENTS))], i)
        else:  # any number of symbols, more or less even: rans8, rans12, patches, ties
            width = np.dtype(array_type(name)).itemsize
            weights = rng.random(int(rng.integers(1, 257))) ** rng.integers(1, 12) + 1e-9
            symbols = rng.choice(len(weights), n * width, p=weights / weights.sum())
            array = symbols.astype(np.uint8).view(array_type(name))
        size = 1 << int(rng.integers(6, 17)) if rng.random() < 0.7 else None
        yield array, TensorConfig(size, profile="plain")


def array_type(name: str) -> np.dtype:
    return np.dtype("uint8") if name == "bool" else numpy_dtype(name)


@needs_shim
def test_the_shim_writes_the_same_bytes_for_random_input():
    items = list(random_inputs(1, 150))
    for (array, config), frame in zip(items, encode_on_shim(items, ShimDevice(1, 3)), strict=True):
        assert frame.tobytes() == gpucodec.encode(array, config).tobytes()


@needs_shim
@pytest.mark.long
@pytest.mark.parametrize("seed", range(10, 20))
def test_the_shim_writes_the_same_bytes_for_much_random_input(seed):
    items = list(random_inputs(seed, 1_000))
    device = ShimDevice(seed % 3, seed)
    for (array, config), frame in zip(items, encode_on_shim(items, device), strict=True):
        assert frame.tobytes() == gpucodec.encode(array, config).tobytes()


@needs_shim
def test_batches_larger_than_the_scratch_memory_encode_in_waves(monkeypatch):
    monkeypatch.setattr(batch, "SCRATCH_BYTES", 1 << 19)
    rng = np.random.default_rng(2)
    items = [(rng.normal(0, 0.02, 90_000).astype("f4"), PLAIN), (rng.bytes(200_000), PLAIN)]
    items.append((np.zeros((0, 3), np.int16), PLAIN))
    device = ShimDevice(2, 3)
    frames = encode_on_shim(items, device)
    assert device.calls.count("split_blocks") >= 3
    for (array, _), frame in zip(items, frames, strict=True):
        assert frame.tobytes() == gpucodec.encode(array, PLAIN).tobytes()


# --- sanitizers ---------------------------------------------------------------------------------


def sanitized(*arguments: str) -> subprocess.CompletedProcess:
    script = str(Path(__file__).with_name("cuda_sanitized.py"))
    return subprocess.run(
        [sys.executable, script, *arguments],
        env=cuda_sanitized.environment(),
        capture_output=True,
        text=True,
        check=False,
    )


@needs_shim
@pytest.mark.long
def test_sanitizers_notice_one_byte():
    done = sanitized("touch")
    assert done.returncode != 0
    assert "use-after-poison" in done.stderr, done.stderr


@needs_shim
@pytest.mark.long
@orders
def test_sanitizers_find_nothing(order):
    done = sanitized("3000", str(order))
    assert done.returncode == 0, done.stderr
    assert "arrays" in done.stdout


@needs_shim
@pytest.mark.long
@orders
def test_sanitizers_find_nothing_in_quantization(order):
    done = sanitized("quantize", "15", str(order))
    assert done.returncode == 0, done.stderr
    assert "180 arrays" in done.stdout
