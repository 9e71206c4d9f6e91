# SPDX-License-Identifier: Apache-2.0
"""Training over streamed activations is training: the same gradients, step after step."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from models import CNN, GPT, LSTM, equal, gpt_batch, gpt_loss, gradients  # noqa: E402
from torch.nn import functional  # noqa: E402

import gpucodec  # noqa: E402
from gpucodec.activations import stream_activations  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
STEPS = 100


def gpt():
    generator = torch.Generator().manual_seed(0)
    return GPT(), gpt_loss, [gpt_batch(generator) for _ in range(4)]


def gpt_autocast():
    model, loss_of, batches = gpt()

    def loss_in_bfloat16(model, batch):
        with torch.autocast("cpu", torch.bfloat16):
            return loss_of(model, batch)

    return model, loss_in_bfloat16, batches


def cnn():
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(8, 3, 16, 16, generator=generator), torch.randint(10, (8,))) for _ in range(4)
    ]
    return CNN(), lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1]), batches


def lstm():
    generator = torch.Generator().manual_seed(0)
    return LSTM(), gpt_loss, [gpt_batch(generator, 40, 4, 12) for _ in range(4)]


CASES = {"gpt": gpt, "gpt in bfloat16": gpt_autocast, "cnn": cnn, "lstm": lstm}


def build(case):
    torch.manual_seed(0)
    return CASES[case]()


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_plain_training(case, tmp_path):
    steps = STEPS if case != "gpt in bfloat16" else 20
    expected = gradients(*build(case), steps=steps)
    stream = stream_activations(tmp_path, min_bytes=1, max_inflight_bytes=50_000)
    found = gradients(*build(case), lambda: stream, steps=steps)
    assert equal(found, expected)
    stats = stream.stats()
    assert stats.loads > steps, stats
    assert stats.raw_bytes > stats.encoded_bytes


OPTIONS = {
    "no prefetch": {"prefetch": 0},
    "copy": {"on_mutation": "copy"},
    "config": {"codec": gpucodec.TensorConfig(block_size=4096)},
    "one at a time": {"max_inflight_bytes": 1},
    "large only": {"min_bytes": 10_000},
    "filter": {"filter": lambda tensor: tensor.dtype is torch.float32},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_change_no_gradient(name, tmp_path):
    expected = gradients(*build("gpt"), steps=5)
    stream = stream_activations(tmp_path, **{"min_bytes": 1} | OPTIONS[name])
    assert equal(gradients(*build("gpt"), lambda: stream, steps=5, inside=True), expected)
    assert stream.stats().streamed


def test_objects_of_a_file_system(tmp_path):
    """By URL, one object a tensor; kept ones are frames that anybody can read."""
    memory = pytest.importorskip("fsspec").filesystem("memory")
    expected = gradients(*build("cnn"), steps=3)
    stream = stream_activations("memory://spill", min_bytes=1, max_inflight_bytes=1)
    assert equal(gradients(*build("cnn"), lambda: stream, steps=3), expected)
    assert stream.stats().loads
    stream._engine.storage.close()
    assert not memory.find("/spill")
    stream = stream_activations(tmp_path, min_bytes=1, keep=True)
    assert equal(gradients(*build("cnn"), lambda: stream, steps=1), expected[: len(expected) // 3])
    stream.flush()
    files = sorted(tmp_path.rglob("*.gpucodec"))
    assert files
    assert gpucodec.decode(files[0].read_bytes()).nbytes


def test_lossy_codecs_go_by_name_and_spare_integers(tmp_path):
    stream = stream_activations(tmp_path, "int8", min_bytes=1)
    x = torch.randn(64, 100, requires_grad=True)
    table = torch.randn(1000, 4, requires_grad=True)
    ids = torch.randint(1000, (500,))
    with stream:
        y = (x * x).sum() + functional.embedding(ids, table).sum()
    stream.flush()
    y.backward()
    error = (x.grad / 2 - x.detach()).abs()
    assert 0 < error.max() < 0.02 * x.detach().abs().max()
    assert torch.equal(table.grad[:, 0], torch.bincount(ids, minlength=1000).float())
    assert stream.stats().by_dtype["float32"].ratio > 3
    with pytest.raises(ValueError, match="int9"):
        stream_activations(tmp_path, codec="int9")
    with pytest.raises(TypeError, match="not int"):
        stream_activations(tmp_path, codec=3)


def test_one_line_a_step_in_the_log(tmp_path, caplog):
    stream = stream_activations(tmp_path, min_bytes=1)
    with caplog.at_level("INFO", "gpucodec.activations"):
        gradients(*build("gpt"), lambda: stream, steps=3)
    assert len(caplog.messages) == 3
    assert re.match(r"[\d.]+ MB of activations in [\d.]+ MB \([\d.]+x\), ", caplog.messages[0])


def test_bad_arguments(tmp_path):
    for options in ({"on_mutation": "ignore"}, {"max_inflight_bytes": 0}, {"prefetch": -1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            stream_activations(tmp_path, **options)


SCRIPT = """
import os, sys, signal, torch
from gpucodec.activations import stream_activations
stream = stream_activations(sys.argv[1], min_bytes=1)
with stream:
    y = torch.ones(100_000, requires_grad=True)
    for _ in range(50):
        y = y.sin()
    stream.flush()
if sys.argv[2] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
elif sys.argv[2] == "fork":
    pid = os.fork()
    if not pid:
        x = torch.ones(1000, requires_grad=True)
        with stream:
            z = x.sin().sum()
        stream.flush()
        z.backward()
        os._exit(0 if torch.equal(x.grad, x.detach().cos()) else 3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    y.sum().backward()
else:
    with stream:
        for _ in range(20):
            y = y.sin()  # still in the queue when the interpreter ends
"""


@pytest.mark.parametrize("end", ["kill", "exit", "fork"])
def test_nothing_is_left_when_the_process_ends(tmp_path, end):
    run = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", SCRIPT, str(tmp_path), end],
        check=False, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.returncode == (-9 if end == "kill" else 0), run.stderr
    assert not run.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "tensor"])
def test_distributed_training(tmp_path, kind):
    """Two processes with gloo: the same gradients with and without, on either rank."""
    worker = Path(__file__).with_name("distributed_worker.py")
    ranks = [
        subprocess.Popen(
            [sys.executable, str(worker), kind, str(rank), str(tmp_path)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [rank.communicate(timeout=240)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(outputs)
    assert all("equal" in output for output in outputs), outputs
