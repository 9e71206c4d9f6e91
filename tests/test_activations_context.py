# SPDX-License-Identifier: Apache-2.0
"""Streamed activations beside torch's other machinery, through the life of a graph, in trouble."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from streams import held, leaf, stream  # noqa: E402, F401
from torch.multiprocessing.reductions import StorageWeakRef  # noqa: E402

import gpucodec  # noqa: E402
from gpucodec.activations import StreamError, engine, storage, stream_activations  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own


def chain(x, n=5):
    for _ in range(n):
        x = (x * 1.1).sin()
    return x.sum()


def right(x, n=5):
    """Whether the gradient of `chain` is that of plain training."""
    return torch.equal(x.grad, torch.autograd.grad(chain(x, n), x)[0])


# Hooks within hooks.


@pytest.mark.parametrize("ours_inside", [True, False])
def test_nested_hooks(stream, ours_inside):  # noqa: F811
    """Only the innermost pair runs, so either context may be around the other."""
    x, ours, other = leaf(50), stream(), torch.autograd.graph.save_on_cpu()
    with other if ours_inside else ours, ours if ours_inside else other:
        y = chain(x)
    assert (ours.stats().tensors > 0) == ours_inside
    y.backward()
    assert right(x)


def test_stream_within_stream(stream):  # noqa: F811
    outer, inner, x = stream(), stream(), leaf(50)
    with outer:
        y = x.sin()
        with inner:
            y = y.exp()
        y = y.cos()
    y.sum().backward()
    assert (outer.stats().tensors, inner.stats().tensors) == (2, 1)
    assert torch.equal(x.grad, torch.autograd.grad(x.sin().exp().cos().sum(), x)[0])


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_activation_checkpointing(stream, reentrant, inside):  # noqa: F811
    """Around checkpoints we keep their inputs; inside them, recomputation is streamed too."""
    from torch.utils.checkpoint import checkpoint

    layers = torch.nn.ModuleList(torch.nn.Linear(40, 40) for _ in range(3))

    def run(x, context, wrap):
        def body(layer, y):
            with context:
                return layer(y).tanh()

        for layer in layers:
            x = wrap(body, layer, x)
        return x.sum()

    def wrapped(*arguments):
        return checkpoint(*arguments, use_reentrant=reentrant)

    nothing, context = contextlib.nullcontext(), stream()
    x, plain = leaf(20, 40), leaf(20, 40)
    if inside:
        run(x, context, wrapped).backward()
    else:
        with context:
            loss = run(x, nothing, wrapped)
            context.flush()
            loss.backward()
        assert context.stats().loads >= 2
    found = [x.grad, *[p.grad for p in layers.parameters()]]
    layers.zero_grad()
    run(plain, nothing, lambda function, *arguments: function(*arguments)).backward()
    expected = [plain.grad, *[p.grad for p in layers.parameters()]]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


# Lifetimes.


def test_retain_graph(stream):  # noqa: F811
    x, context = leaf(100), stream()
    with context:
        y = chain(x)
    context.flush()
    first = torch.autograd.grad(y, x, retain_graph=True)[0]
    second = torch.autograd.grad(y, x)[0]
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def bytes_on_disk(folder):
    sizes = []
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(fd.readlink()).startswith(f"{folder}/"):
                sizes.append(os.fstat(int(fd.name)).st_size)
    return sizes


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks for open files in /proc")
def test_forward_without_backward_leaves_nothing(stream, tmp_path):  # noqa: F811
    context, folder = stream(), tmp_path / "spill"
    with context:
        y = chain(leaf(1000))
        context.flush()
        size = sum(bytes_on_disk(folder))
        assert size > 10_000
        del y
        y = chain(leaf(1000))
        context.flush()
        assert sum(bytes_on_disk(folder)) == size  # the file of the first graph, written again
        del y
    assert bytes_on_disk(folder) == []
    with pytest.raises(ValueError, match="in the model"), context:  # noqa: PT012
        y = chain(leaf(1000))
        context.flush()
        del y
        raise ValueError("in the model")
    assert bytes_on_disk(folder) == []
    x = leaf(10)
    with context:  # and can be entered again
        y = chain(x)
    context.flush()
    y.backward()
    assert right(x)
    del y
    assert len(bytes_on_disk(folder)) == 1  # for the next step
    del context
    for _ in range(1000):  # a thread may hold what it read ahead for a moment
        if not bytes_on_disk(folder):
            break
        time.sleep(0.01)
    assert bytes_on_disk(folder) == []


def test_nothing_is_written_of_a_graph_that_died_in_the_queue(stream, held):  # noqa: F811
    context = stream()
    with context:
        y = chain(leaf(1000), 20)
        del y
    held.set()
    context.flush()
    stats = context.stats()
    assert stats.unwritten >= stats.streamed - engine.N_WRITERS
    assert stats.raw_bytes == 0


def test_no_reference_cycle(stream):  # noqa: F811
    """A packed tensor that is its own graph's output would keep the graph alive for ever."""
    for options in ({}, {"min_bytes": 1 << 20}):
        context = stream(**options)
        with context:
            y = leaf(100).exp()
        context.flush()
        dead = weakref.ref(y)
        gc.disable()
        try:
            del y
            assert dead() is None
        finally:
            gc.enable()


def test_memory_of_written_tensors_is_given_back(stream):  # noqa: F811
    context = stream()
    with context:
        a = leaf(100) * 1
        y = a.sin()
        memory = StorageWeakRef(a.untyped_storage())
        del a
        context.flush()
        assert memory.expired()
    y.sum().backward()


def test_threads_end_with_the_last_reference(stream):  # noqa: F811
    before = set(threading.enumerate())
    context = stream()
    with context:
        y = chain(leaf(100))
    context.flush()
    threads = set(threading.enumerate()) - before
    assert len(threads) == engine.N_WRITERS + 1
    del context
    y.backward()  # the graph holds the hooks
    del y
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_double_backward(stream):  # noqa: F811
    x, context = torch.tensor([1.0, 2.0, 3.0], requires_grad=True), stream()
    with context:
        y = (x**3).sum()
        context.flush()
        [first] = torch.autograd.grad(y, x, create_graph=True)
        context.flush()
        first.sum().backward()
    assert first.tolist() == [3, 12, 27]
    assert x.grad.tolist() == [6, 12, 18]


def test_gradient_accumulation(stream):  # noqa: F811
    linear, context = torch.nn.Linear(20, 20), stream()
    losses = []
    for seed in range(3):
        with context:
            losses.append(linear(leaf(8, 20, seed=seed)).tanh().sum())
    context.flush()
    for loss in losses:
        loss.backward()
    found = linear.weight.grad.clone()
    linear.zero_grad()
    for seed in range(3):
        linear(leaf(8, 20, seed=seed)).tanh().sum().backward()
    assert torch.equal(found, linear.weight.grad)


def test_backward_in_another_thread(stream):  # noqa: F811
    x, context = leaf(1000), stream()
    with context:
        y = chain(x)
    context.flush()
    thread = threading.Thread(target=y.backward)
    thread.start()
    thread.join(60)
    assert right(x)


def test_nobody_reaches_a_file_that_is_being_given_back(tmp_path, monkeypatch):
    """Another thread would take it for its last, and the next graph for its first."""
    seen, give_back = [], storage._Files.give_back

    def giving_back(files, fd):
        seen.append(segments._last and segments._last())
        give_back(files, fd)

    monkeypatch.setattr(storage._Files, "give_back", giving_back)
    segments = storage.Segments.__new__(storage.Segments)
    segments._last = None
    segments.__init__(str(tmp_path))
    slot = segments.write(np.zeros(10, np.uint8))
    fd = slot.place.fd
    seen.clear()
    del slot
    assert seen == [None]
    assert segments.write(np.zeros(10, np.uint8)).place.fd == fd
    segments.trim()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


# What torch does not allow.


@pytest.mark.parametrize("transform", ["grad", "jacrev", "vmap"])
def test_torch_func_refuses_hooks(stream, transform):  # noqa: F811
    function = {
        "grad": torch.func.grad(lambda t: t.sin().sum()),
        "jacrev": torch.func.jacrev(torch.sin),
        "vmap": torch.func.vmap(torch.func.grad(lambda t: t.sin().sum())),
    }[transform]
    with stream(), pytest.raises(RuntimeError, match="saved tensor hooks"):
        function(torch.randn(5, 5))


@pytest.mark.filterwarnings("ignore:Using `torch.compile")  # that our hook runs for it, too
def test_compiled_graphs_are_saved_between_not_within(stream):  # noqa: F811
    model = torch.nn.Sequential(torch.nn.Linear(30, 30), torch.nn.ReLU(), torch.nn.Linear(30, 5))
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x, context = leaf(20, 30), stream()
    with context:
        y = compiled(x).square().sum()
        context.flush()
        y.backward()
    stats = context.stats()
    assert stats.loads > 0
    assert stats.weights > 0
    [expected] = torch.autograd.grad(model(x).square().sum(), x)
    assert torch.equal(x.grad, expected)


# Failing disks.


def test_a_full_disk_is_an_error_in_backward(stream, held):  # noqa: F811
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    context = stream()
    with context:
        y = leaf(200_000).sin().sum()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            held.set()
            context.flush()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(StreamError, match=r"float32\[200000\].*not be written to .*spill") as found:
        y.backward()
    assert found.value.__cause__.errno == errno.EFBIG


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), MemoryError("none")])
def test_failing_writes_reach_backward(stream, monkeypatch, error):  # noqa: F811
    def fail(*_):
        raise error

    monkeypatch.setattr(os, "pwrite", fail)
    context = stream(max_inflight_bytes=1000)  # a writer that stops would stop forward as well
    with context:
        y = chain(leaf(1000))
    context.flush()
    with pytest.raises(StreamError, match="could not be written to"):
        y.backward()


@pytest.mark.parametrize("prefetch", [0, 4])
def test_failing_reads_reach_backward(stream, monkeypatch, prefetch):  # noqa: F811
    context = stream(prefetch=prefetch)
    with context:
        y = chain(leaf(1000))
    context.flush()

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(StreamError, match=r"could not be read back from .*Input/output"):
        y.backward()


def test_damaged_bytes_are_an_error(stream, monkeypatch):  # noqa: F811
    context = stream()
    with context:
        y = chain(leaf(1000))
    context.flush()
    preadv = os.preadv

    def flip(fd, buffers, offset):
        n = preadv(fd, buffers, offset)
        buffers[0][n // 2] ^= 1
        return n

    monkeypatch.setattr(os, "preadv", flip)
    with pytest.raises(StreamError, match="could not be read back") as caught:
        y.backward()
    assert isinstance(caught.value.__cause__, gpucodec.CorruptionError)


def test_a_bad_folder_is_an_error_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        stream_activations(tmp_path / "file")


def test_interrupt_while_forward_waits(stream, held, monkeypatch):  # noqa: F811
    context = stream(max_inflight_bytes=1)

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), context:  # noqa: PT012
        y = leaf(100).sin()
        monkeypatch.setattr(context._engine.changed, "wait", interrupt)
        y.exp()
    monkeypatch.undo()
    held.set()
    x = leaf(100)
    with context:
        y = chain(x)
    y.backward()
    assert right(x)


# Bounded memory without deadlock.


@pytest.mark.parametrize("limit", [1, 40_000, 1 << 30])
@pytest.mark.parametrize("prefetch", [0, 1, 50])
def test_memory_is_bounded_and_nothing_waits_forever(stream, limit, prefetch):  # noqa: F811
    x, context = leaf(100, 30), stream(max_inflight_bytes=limit, prefetch=prefetch)
    with context:
        y = chain(x, 30)
    y.backward()
    assert right(x, 30)
    assert context.stats().peak_inflight_bytes <= max(limit, 12_000)
    context.flush()
    assert context._engine._inflight == 0


def test_slow_disk_holds_forward_back(stream, held):  # noqa: F811
    context, done = stream(max_inflight_bytes=30_000), []

    def forward():
        with context:
            done.append(chain(leaf(100, 30), 20))

    thread = threading.Thread(target=forward)
    thread.start()
    thread.join(0.5)
    assert context.stats().streamed <= 2  # the third waits
    assert thread.is_alive()
    held.set()
    thread.join(60)
    stats = context.stats()
    assert stats.peak_inflight_bytes <= 30_000
    assert stats.save_stall_s > 0.1
    done[0].backward()


def test_backward_does_not_wait_for_the_queue_of_saves(stream, held):  # noqa: F811
    """What is still queued is taken from memory, whatever stands before it."""
    x = leaf(100)
    with stream():
        y = chain(x)
    y.backward()  # with both writers held
    assert right(x)


def test_recomputation_takes_the_room_of_what_was_read_ahead(stream):  # noqa: F811
    """A region loaded ahead that nobody fetches must not keep forward waiting."""

    class Between(torch.autograd.Function):
        @staticmethod
        def forward(ctx, t):
            ctx.save_for_backward(t)
            return t.clone()

        @staticmethod
        def backward(ctx, grad):
            with torch.enable_grad():
                a = ctx.saved_tensors[0].detach().requires_grad_()
                return grad + torch.autograd.grad(chain(a, 6), a)[0]

    x, context = leaf(1000), stream(max_inflight_bytes=12_000, prefetch=3)
    with context:
        y = x
        for _ in range(6):
            y = y.sin()
        context.flush()
        Between.apply(y).sum().backward()
    assert x.grad.isfinite().all()
    context.flush()
    assert context._engine._inflight == 0
