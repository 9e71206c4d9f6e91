# SPDX-License-Identifier: Apache-2.0
"""State dicts and storages that the checkpoint tests share."""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from contextlib import contextmanager

import numpy as np
import pytest
import torch

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.complex128, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.uint16, torch.uint32, torch.uint64),
)


def bits(tensor) -> bytes:
    """All elements of a tensor or array in C order."""
    if isinstance(tensor, np.ndarray):
        return np.ascontiguousarray(tensor).tobytes()
    if not tensor.numel():
        return b""
    plain = torch.empty(tuple(tensor.shape), dtype=tensor.dtype).copy_(tensor.detach())
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def random_tensor(shape, dtype=torch.float32, seed=0):
    """Random bits; of bool, random truth."""
    generator = torch.Generator().manual_seed(seed)
    if dtype is torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    n = int(np.prod(shape)) * dtype.itemsize
    raw = torch.randint(0, 256, (n,), generator=generator, dtype=torch.int32).to(torch.uint8)
    return raw.view(dtype).reshape(shape)


def same(left, right) -> bool:
    """Whether two state dicts are equal: types, keys in order, every bit of every tensor."""
    if isinstance(left, (torch.Tensor, np.ndarray)):
        return (
            isinstance(right, type(left))
            and left.dtype == right.dtype
            and tuple(left.shape) == tuple(right.shape)
            and bits(left) == bits(right)
        )
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, io.BytesIO):
        return (left.getvalue(), left.tell()) == (right.getvalue(), right.tell())
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return repr(left) == repr(right)  # NaN and -0.0 too


class Model(torch.nn.Module):
    """Embedding tied to the head, layer norm, batch norm: parameters, buffers, an alias."""

    def __init__(self, width=48, vocabulary=100):
        super().__init__()
        self.embed = torch.nn.Embedding(vocabulary, width)
        self.norm = torch.nn.LayerNorm(width)
        self.mix = torch.nn.Linear(width, 2 * width)
        self.batch = torch.nn.BatchNorm1d(2 * width)
        self.back = torch.nn.Linear(2 * width, width)
        self.head = torch.nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        hidden = self.norm(self.embed(tokens))
        return self.head(self.back(torch.relu(self.batch(self.mix(hidden)))))


def train(model, optimizer, steps, first=0):
    """Train on made-up batches that depend on the step's number alone."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        tokens = torch.randint(0, 100, (32,), generator=generator)
        loss = torch.nn.functional.cross_entropy(model(tokens), (tokens * 7 + 3) % 100)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def training_state(steps=2, seed=0, optimizer=torch.optim.AdamW, **options):
    """Everything that a run needs in order to go on."""
    torch.manual_seed(seed)
    model = Model()
    steppers = optimizer(model.parameters(), lr=1e-2, **options)
    schedule = torch.optim.lr_scheduler.StepLR(steppers, 5)
    train(model, steppers, steps)
    return {
        "model": model.state_dict(),
        "optimizer": steppers.state_dict(),
        "scheduler": {k: v for k, v in schedule.state_dict().items() if not k.startswith("_")},
        "rng": {"torch": torch.get_rng_state(), "numpy": np.random.get_state()},  # noqa: NPY002 - many runs use it
        "step": steps,
    }


def odd_state():
    """One of each kind of value and shape."""
    shared = random_tensor((7, 5), seed=5)
    return {
        "types": {str(t).removeprefix("torch."): random_tensor((3, 5), t) for t in DTYPES},
        "shapes": [random_tensor(s, seed=i) for i, s in enumerate([(), (0,), (3, 0, 2), (1,) * 6])],
        "strides": (shared.T, shared[::2, 1::3], shared[1:, 0], shared.flip(1).T.expand(2, 5, 7)),
        "conjugate": random_tensor((4,), torch.complex64).conj(),
        "negative": random_tensor((4,), torch.complex64).conj().imag,
        "grad": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)),
        "arrays": [np.arange(6.0).reshape(2, 3).T, np.array(3, np.int16), np.array([1, 2], ">f4")],
        "a/b": torch.tensor([1]),
        "a": {"b": torch.tensor([2]), 0: torch.tensor([3]), "0": torch.tensor([4])},
        "": {"": torch.tensor([5])},
        "values": [
            None,
            True,
            1,
            -(10**30),
            1 << 9000,
            0.1,
            -0.0,
            1e300,
            2 - 3j,
            "ä\ud800",
            b"\0\xff",
        ],
        "floats": (float("nan"), float("inf"), -float("inf"), np.float64(0.5), np.int64(-3)),
        "files": [io.BytesIO(b"abc"), io.BytesIO()],
        "torch": [torch.Size([2, 3]), torch.bfloat16, torch.device("cpu"), bytearray(b"x")],
        "nested": OrderedDict(b=(), a=[], c={}, d=[([{}],)], e={3: {-1: {"x": 1}}}),
    }


STORAGES = ("local", "file", "memory", "s3", "obstore", "obstore-s3")


@contextmanager
def s3_server():
    """The endpoint of an S3 server (moto), in a thread of this process."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def place_of(kind, folder, monkeypatch, endpoint):
    """Somewhere new to save to; `endpoint()` is called for S3."""
    name = f"run-{os.urandom(6).hex()}"
    if kind == "local":
        return folder / "new" / name
    if kind == "file":
        return f"file://{folder}/{name}"
    if kind == "memory":
        return f"memory://{name}"
    if kind == "obstore":
        return pytest.importorskip("obstore").store.MemoryStore()
    keys = {"access_key_id": "test", "secret_access_key": "test"}
    options = {"endpoint_url": endpoint(), "default_region": "us-east-1", **keys}
    for option, value in options.items():
        monkeypatch.setenv(f"AWS_{option.upper()}", value)
    s3fs = pytest.importorskip("s3fs")
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir(name)
    if kind == "s3":
        return f"s3://{name}/some/run"
    config = {"endpoint": options["endpoint_url"], "region": "us-east-1", **keys}
    plain = {"allow_http": True}
    store = pytest.importorskip("obstore").store
    return store.S3Store(name, prefix="some/run", client_options=plain, config=config)
