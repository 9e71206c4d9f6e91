# SPDX-License-Identifier: Apache-2.0
"""Streamed activations give the right gradient: one test for each way it went wrong elsewhere."""

from __future__ import annotations

import contextlib
import threading

import pytest

torch = pytest.importorskip("torch")

from models import bits  # noqa: E402
from streams import held, leaf, round_trip, stream  # noqa: E402, F401
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from gpucodec.activations import MutationError, device, record, storage  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own


def same(back, tensor):
    assert (back.shape, back.dtype, back.device) == (tensor.shape, tensor.dtype, tensor.device)
    assert back.stride() == tensor.stride()
    return torch.equal(bits(back), bits(tensor))


# In-place modification after packing.


def test_in_place_change_while_queued_is_an_error(stream, held):  # noqa: F811
    with stream():
        x = leaf(100) * 1
        y = (x * x).sum()
        x.detach().mul_(10)
    with pytest.raises(MutationError, match=r"float32\[100\] .* version 1, saved at 0"):
        y.backward()


def test_in_place_change_of_a_saved_output_is_an_error(stream, held):  # noqa: F811
    with stream():
        y = leaf(100).sigmoid()
        y.add_(1)
    held.set()
    with pytest.raises(MutationError):
        y.sum().backward()


def test_in_place_change_is_found_by_the_writer(stream, held):  # noqa: F811
    context = stream()
    with context:
        x = leaf(100) * 1
        y = (x * x).sum()
        x.detach().mul_(10)
    held.set()
    context.flush()
    with pytest.raises(MutationError, match="on_mutation='copy'"):
        y.backward()


def test_in_place_operation_under_way_while_the_writer_looks(stream, monkeypatch):  # noqa: F811
    """torch counts the version after the operation: the writer alone would see nothing."""
    begun, encoded = threading.Event(), threading.Event()
    encode = record.Source.encode

    def late(*arguments):
        begun.wait(60)
        return encode(*arguments)

    class Slow(TorchDispatchMode):
        """Runs inside torch's in-place operations, before they count the version."""

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            begun.set()
            assert encoded.wait(60)
            return result

    class Storage(storage.Segments):
        def write(self, frame):
            encoded.set()  # the writer has looked at the version
            return super().write(frame)

    monkeypatch.setattr(record.Source, "encode", late)
    monkeypatch.setattr(storage, "Segments", Storage)
    with stream():
        x = leaf(100) * 1
        y = (x * x).sum()
        changed = x.detach()
        with Slow():
            changed.fill_(8)
    with pytest.raises(MutationError):
        y.backward()


@pytest.mark.parametrize("written", [False, True])
def test_in_place_change_with_copy_gives_what_was_saved(stream, held, written):  # noqa: F811
    x = leaf(100)
    context = stream(on_mutation="copy")
    with context:
        a = x * 1
        y = (a * a).sum()
        a.detach().mul_(10)
    if written:
        held.set()
        context.flush()
    y.backward()
    assert torch.equal(x.grad, 2 * x.detach())


def test_in_place_change_of_a_kept_tensor(stream):  # noqa: F811
    for mode in ("error", "copy"):
        x = leaf(100)
        with stream(min_bytes=1 << 20, on_mutation=mode):
            a = x * 1
            y = (a * a).sum()
        a.detach().mul_(10)
        if mode == "copy":
            y.backward()
            assert torch.equal(x.grad, 2 * x.detach())
        else:
            with pytest.raises(MutationError, match="version 1, saved at 0"):
                y.backward()


def test_in_place_change_after_writing_is_harmless(stream):  # noqa: F811
    x = leaf(100)
    context = stream()
    with context:
        a = x * 1
        y = (a * a).sum()
    context.flush()
    a.detach().mul_(10)
    y.backward()
    assert torch.equal(x.grad, 2 * x.detach())


# Optimizer steps and running statistics change saved weights.


def test_weights_are_not_written_and_their_change_is_an_error(stream):  # noqa: F811
    linear = torch.nn.Linear(30, 40)
    context = stream()
    with context:
        y = linear(leaf(5, 30)).sigmoid().sum()
    assert context.stats().weights == 1
    with torch.no_grad():
        linear.weight.add_(1)
    with pytest.raises(MutationError):
        y.backward()


def test_batch_norm_statistics_are_not_written_and_may_change(stream):  # noqa: F811
    norm, plain = torch.nn.BatchNorm1d(50), torch.nn.BatchNorm1d(50)
    a, b = leaf(20, 50), leaf(20, 50)
    context = stream()
    with context:
        y = norm(a).square().sum()
        z = norm(a.detach() + 1).sum()  # another micro-batch moves the statistics
    context.flush()
    assert context.stats().weights >= 6  # weight, mean and variance, twice
    y.backward()
    z.backward()
    plain(b).square().sum().backward()
    assert torch.equal(a.grad, b.grad)


def test_buffers_and_casts_and_views_of_parameters_are_weights(stream):  # noqa: F811
    class Masked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(40, 40)
            self.register_buffer("mask", torch.ones(30, 40, dtype=torch.bool))

        def forward(self, x):
            return self.linear(self.linear(x)).masked_fill(self.mask, 0)

    context = stream()
    with context, torch.autocast("cpu", torch.bfloat16):
        Masked()(leaf(30, 40)).sum().backward()
    stats = context.stats()
    assert stats.weights == 3, stats  # the cast weight twice, and the mask
    assert stats.weight_bytes == 2 * 40 * 40 * 2 + 30 * 40


# Deduplication by storage.


def test_duplicates_share_one_copy(stream):  # noqa: F811
    context = stream()
    with context:
        x = leaf(10, 30) * 1
        y = x.sin().sum() + x.cos().sum() + x.t().sin().sum() + x.view(-1).cos().sum()
    context.flush()
    stats = context.stats()
    assert (stats.tensors, stats.streamed, stats.duplicates) == (4, 1, 3)
    assert stats.raw_bytes == 4 * 300
    y.backward()


def test_reused_address_is_not_a_duplicate(stream):  # noqa: F811
    """The allocator gives a freed address to the next tensor, of the same version."""
    context = stream()
    addresses, leaves = [], [leaf(1000, seed=seed) for seed in range(30)]
    with context:
        total = 0
        for x in leaves:
            temporary = x * 1
            total = total + (temporary * temporary).sum()
            addresses.append(temporary.data_ptr())
            del temporary
            context.flush()  # written: nobody holds the memory any more
    total.backward()
    assert len(set(addresses)) < len(addresses)  # or this test shows nothing
    assert all(torch.equal(x.grad, 2 * x.detach()) for x in leaves)
    assert context.stats().duplicates == len(leaves)  # the other operand of each product


def test_a_new_version_is_not_a_duplicate(stream):  # noqa: F811
    x = leaf(100)
    context = stream()
    with context:
        a = x * 1
        y = a.exp().sum() + (a * a).sum()
        context.flush()
        a.detach().add_(1)
        z = (a * a).sum()
    (y + z).backward()
    b = x.detach()
    torch.testing.assert_close(x.grad, b.exp() + 2 * b + 2 * (b + 1))


# Streams of CUDA: what can be shown without one.


def test_side_stream_waits_for_the_stream_of_the_moment(monkeypatch):
    """Cached streams are wrong under FSDP2 and recomputation; memory is held to the copy's end."""
    calls = []

    class Stream:
        def wait_stream(self, other):
            calls.append(("wait", other))

        def record_event(self):
            calls.append("event")

    class OnDevice(torch.Tensor):
        def record_stream(self, _):
            calls.append("record_stream")

    current = iter(["first", "second"])
    empty = torch.empty

    def unpinned(*arguments, pin_memory, **options):
        assert pin_memory
        return empty(*arguments, **options)

    monkeypatch.setattr(device, "_side_stream", lambda _: Stream())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: next(current))
    monkeypatch.setattr(torch.cuda, "stream", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch, "empty", unpinned)
    flat = torch.arange(10.0).as_subclass(OnDevice)
    for name in ("first", "second"):
        host, _ = device.start_copy(flat)
        assert torch.equal(host, torch.arange(10.0))
        assert calls == [("wait", name), "record_stream", "event"]
        calls.clear()


def test_tensor_deleted_while_its_copy_is_queued(stream, held):  # noqa: F811
    x, plain = leaf(200, 100), leaf(200, 100)
    context = stream()
    with context:
        y = x
        for _ in range(10):
            y = (y * 1.01).sin()  # each intermediate tensor loses its name at once
    held.set()
    context.flush()
    y.sum().backward()
    y = plain
    for _ in range(10):
        y = (y * 1.01).sin()
    y.sum().backward()
    assert torch.equal(x.grad, plain.grad)
    assert context.stats().loads == 10


# Views.

VIEWS = {
    "tail": lambda x: x[3:],
    "columns": lambda x: x[:, 5:9],
    "transposed": lambda x: x.t(),
    "every third": lambda x: x[::3],
    "one column": lambda x: x[:, 7],
    "one element": lambda x: x[2, 2],
    "expanded row": lambda x: x[1:2].expand(50, 30),
    "expanded element": lambda x: x[0, 0].expand(7, 8),
    "windows": lambda x: x.unfold(0, 4, 2),
    "permuted": lambda x: x.view(2, 10, 30).permute(2, 0, 1),
    "other type": lambda x: x.flatten()[1:].view(torch.int32),
    "offset columns": lambda x: x[:, 1:].transpose(0, 1),
}


@pytest.mark.parametrize("name", VIEWS)
def test_offset_and_strided_views(stream, name):  # noqa: F811
    tensor = VIEWS[name](torch.arange(600.0).view(20, 30))
    back, stats = round_trip(stream, tensor)
    assert same(back, tensor)
    assert stats.loads == 1
    assert stats.raw_bytes <= 4 * 600


def test_alignment_is_kept(stream):  # noqa: F811
    tensor = torch.arange(1000.0)[600:]
    back, stats = round_trip(stream, tensor)
    assert back.data_ptr() % 64 == tensor.data_ptr() % 64 == 32
    assert stats.raw_bytes == 4 * 400


def test_expanded_tensors_are_not_materialised(stream):  # noqa: F811
    back, stats = round_trip(stream, torch.arange(8.0).expand(1000, 8))
    assert back.stride() == (0, 1)
    assert stats.raw_bytes == 32


def test_elements_far_apart_are_compacted(stream):  # noqa: F811
    column = torch.arange(100_000.0).view(100, 1000)[:, 5]
    back, stats = round_trip(stream, column)
    assert same(back, column)
    assert stats.raw_bytes == 400


def test_query_key_and_value_share_a_copy(stream):  # noqa: F811
    x, qkv = leaf(2, 10, 16), torch.nn.Linear(16, 48)
    context = stream()
    with context:
        y = sum(part.sin().sum() for part in qkv(x).split(16, -1))
        context.flush()
    stats = context.stats()
    assert (stats.streamed, stats.duplicates) == (2, 2)  # x, too
    assert stats.raw_bytes == 4 * 2 * 10 * (16 + 48)
    [expected] = torch.autograd.grad(sum(p.sin().sum() for p in qkv(x).split(16, -1)), x)
    assert torch.equal(torch.autograd.grad(y, x)[0], expected)
    assert context.stats().loads == 2


def test_views_written_to_by_a_backward_function_do_not_reach_others(stream):  # noqa: F811
    class Careless(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.saved_tensors[0].zero_()

    x = leaf(100)
    context = stream()
    with context:
        a = x * 1
        y = a.sin() + Careless.apply(a)
    context.flush()
    y.sum().backward()
    torch.testing.assert_close(x.grad, x.detach().cos())
    assert context.stats().loads == 2


# Types, devices, subclasses.

TYPES = [
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.int64),
    *(torch.int32, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16),
    *(torch.complex32, torch.int8),
]


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type_comes_back_as_it_was(stream, dtype):  # noqa: F811
    raw = torch.randint(256, (60 * dtype.itemsize,), dtype=torch.uint8)
    tensor = (raw % 2).bool() if dtype is torch.bool else raw.view(dtype)
    back, stats = round_trip(stream, tensor.view(-1, 2).t())
    assert same(back, tensor.view(-1, 2).t())
    assert stats.loads == 1


def test_conjugate_negative_and_sparse_tensors(stream):  # noqa: F811
    values = torch.randn(20, dtype=torch.complex64)
    back, stats = round_trip(stream, values.conj())
    assert back.is_conj()
    assert same(back, values.conj())
    assert stats.loads == 1
    negative = values.conj().imag
    assert negative.is_neg()
    back, _ = round_trip(stream, negative)
    assert torch.equal(back, negative)
    back, stats = round_trip(stream, torch.eye(5).to_sparse())
    assert back.is_sparse
    assert stats.kept == 1


def test_empty_and_scalar_tensors(stream):  # noqa: F811
    back, _ = round_trip(stream, torch.empty(0, 5))
    assert back.shape == (0, 5)
    back, stats = round_trip(stream, torch.tensor(3.5))
    assert back == 3.5
    assert stats.loads == 1


def test_tensors_of_custom_functions_come_back_on_their_device(stream):  # noqa: F811
    back, _ = round_trip(stream, torch.arange(50))
    assert back.device == torch.device("cpu")
    back, stats = round_trip(stream, torch.empty(50, device="meta"))
    assert back.device == torch.device("meta")
    assert stats.kept == 1


def test_tensor_subclasses_are_kept(stream):  # noqa: F811
    """DTensor and its kin: what a wrapper holds, and on which stream, is its own business."""

    class Wrapper(torch.Tensor):
        pass

    x = leaf(50).as_subclass(Wrapper)
    context = stream()
    with context:
        y = (x * x).sum()
    assert (context.stats().kept, context.stats().streamed) == (2, 0)
    y.backward()
