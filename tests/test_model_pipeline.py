# SPDX-License-Identifier: Apache-2.0
"""A model becomes a store and comes back; the report's bytes are those of the files."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from model_cases import Task  # noqa: E402
from models import GPT  # noqa: E402
from torch import nn  # noqa: E402

import gpucodec  # noqa: E402
from gpucodec import CorruptionError, TensorConfig, UnsupportedError, checkpoint  # noqa: E402
from gpucodec.model import (  # noqa: E402
    Graph,
    Prune,
    Quantize,
    compress_model,
    load_model,
    load_program,
)

ANY_BATCH = Graph(dynamic_shapes=({0: torch.export.Dim.AUTO},))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small():
    torch.manual_seed(0)
    model = GPT(width=64).eval()
    return model, torch.randint(64, (4, 32))


def loss_of(tokens):
    def evaluate(model):
        logits = model(tokens).detach().flatten(0, 1)
        return float(nn.functional.cross_entropy(logits, tokens.roll(-1, 1).flatten()))

    return evaluate


def on_disk(folder):
    return sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model, tokens = small()
    report = compress_model(
        model,
        (tokens,),
        folder / "store",
        prune=Prune(0.5),
        quantize=Quantize("int4", rules={"blocks.1.*": "int8"}, activations="int8"),
        graph=ANY_BATCH,
        evaluate=loss_of(tokens),
        calibration=[(tokens,), (tokens.flip(0),)],
        keep_stages=folder / "stages",
    )
    return folder, model, tokens, report


def test_bytes_of_every_stage_add_up_to_its_files(compressed):
    folder, _, _, report = compressed
    for stage in report.stages[:-1]:
        assert stage.nbytes == on_disk(folder / "stages" / stage.name), stage.name
    assert report.stage("code").nbytes == on_disk(folder / "store")
    assert sum(one.stored_bytes for one in report.tensors) <= report.stage("code").nbytes


def test_alpha_is_the_product_of_what_was_measured(compressed):
    _, model, _, report = compressed
    sizes = [stage.nbytes for stage in report.stages]
    product = np.prod([b / a for a, b in itertools.pairwise(sizes)])
    assert report.alpha == pytest.approx(product)
    parameters = {id(p): p.numel() for p in model.state_dict().values()}
    tied = model.head.weight.numel()
    assert report.n == sum(parameters.values()) - tied
    matrices = {id(p): p for p in model.parameters() if p.ndim > 1}.values()
    assert report.n - report.m >= sum(p.numel() for p in matrices if p.numel() >= 4096) // 2
    assert report.beta < 0.3  # codes of 4 and of 8 bits, and scales
    assert 0 < report.delta < 1
    assert report.naive < report.alpha  # masks, scales and metadata, which products leave out


def test_the_metric_of_the_store_is_reported_and_reproduced(compressed):
    folder, model, tokens, report = compressed
    assert report.stage("original").metric == loss_of(tokens)(model)  # which was not changed
    loaded = load_model(folder / "store")
    assert loss_of(tokens)(loaded) == report.stage("code").metric
    assert report.stage("graph").metric == report.stage("code").metric
    assert loaded(tokens[:1]).shape == (1, 32, 64)  # any batch
    assert loaded.eval() is loaded


def test_the_store_runs_without_the_class(compressed):
    folder, _, tokens, report = compressed
    np.save(folder / "tokens.npy", tokens.numpy())
    code = (
        "import sys, torch, numpy as np; torch.set_num_threads(1)\n"
        "from gpucodec.model import load_model\n"
        "tokens = torch.from_numpy(np.load(sys.argv[2]))\n"
        "logits = load_model(sys.argv[1])(tokens).detach().flatten(0, 1)\n"
        "target = tokens.roll(-1, 1).flatten()\n"
        "print(float(torch.nn.functional.cross_entropy(logits, target)))\n"
        "assert 'models' not in sys.modules"
    )
    arguments = [str(folder / "store"), str(folder / "tokens.npy")]
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert float(run.stdout) == report.stage("code").metric


def test_tensors_say_how_they_are_stored(compressed):
    folder, _, _, report = compressed
    rows = {one.name: one for one in report.tensors}
    assert rows["blocks.0.qkv.weight"].format == "int4"
    assert rows["blocks.1.qkv.weight"].format == "int8"
    assert rows["blocks.0.qkv.bias"].format == "exact"
    assert rows["blocks.0.qkv.bias"].recovery.max_abs == 0
    assert rows["embed.weight"].format == "int4"  # stored once, under the name of what is tied
    assert rows["embed.weight"].stored_bytes
    lossy = [one.recovery.snr_db for one in report.tensors if one.format != "exact"]
    assert all(0 < snr < 60 for snr in lossy)
    assert len(report.ranges) == 9
    assert all(one.largest > 0 and one.clipped == 0 for one in report.ranges)
    content = json.loads(report.to_json())
    assert content["derived"]["alpha"] == report.alpha
    assert checkpoint.verify(folder / "store") > 20


def test_stages_that_are_left_out_lose_nothing(tmp_path):
    model, tokens = small()
    report = compress_model(model, (tokens,), tmp_path / "store")
    assert torch.equal(load_model(tmp_path / "store")(tokens), model(tokens))
    assert report.agreement.kl == 0
    assert report.agreement.top1 == 1
    assert report.m == int(sum((t != 0).sum() for t in {*model.parameters()}))
    assert report.metric is None
    plain = report.stage("quantize").nbytes
    assert plain == report.stage("prune").nbytes


def test_the_coder_can_be_chosen(tmp_path):
    model, tokens = small()
    sizes = {}
    for profile in ("ratio", "fast"):
        config = TensorConfig(profile=profile)
        report = compress_model(model, (tokens,), tmp_path / profile, code=config)
        sizes[profile] = report.stage("code").nbytes, report.coded_original
        info = checkpoint.inspect(tmp_path / profile)
        stored = {
            row.codec.get("configuration", {}).get("profile", "ratio") for row in info.tensors
        }
        assert stored == {profile}
        assert torch.equal(load_model(tmp_path / profile)(tokens), model(tokens))
    assert all(a < b for a, b in zip(sizes["ratio"], sizes["fast"], strict=True))


def test_mixed_precision_keeps_within_its_budget(tmp_path):
    torch.manual_seed(0)
    layers = [nn.Linear(64, 96), nn.GELU(), nn.Linear(96, 96), nn.GELU(), nn.Linear(96, 64)]
    model, x = nn.Sequential(*layers).eval(), 3 * torch.randn(32, 64)
    sizes, formats = [], []
    for budget in (1e-7, 1e-5, 1.0):
        report = compress_model(
            model, (x,), tmp_path / str(budget), quantize=Quantize("auto", budget=budget)
        )
        assert report.agreement.kl <= budget
        sizes.append(report.stages[-1].nbytes)
        formats.append({one.format for one in report.tensors if len(one.shape) > 1})
    assert report.stages[0].nbytes > sizes[0] > sizes[1] > sizes[2]
    assert formats[2] == {"nf4"}
    assert formats[0] & {"exact", "int8"}


@pytest.mark.parametrize("name", ["gpt", "cnn", "encoder"])
def test_an_eighth_of_fp32_costs_at_most_one_percent(name, tmp_path):
    task = Task(name)
    task.train(task.model, 50 if name == "cnn" else 80)
    report = compress_model(
        task.model,
        task.inputs,
        tmp_path / "store",
        prune=Prune(0.5),
        quantize=Quantize(rules={"embed*": "int8", "position": "int8", "head*": "int8"}),
        evaluate=task.evaluate,
        higher_is_better=task.higher_is_better,
        finetune=lambda model: task.train(model, 40, 1.5e-3),
    )
    assert report.alpha <= 1 / 8
    assert report.relative_loss <= 0.01
    assert report.stage("code").nbytes == on_disk(tmp_path / "store")
    assert task.evaluate(load_model(tmp_path / "store")) == report.stage("code").metric
    zeros = sum(one.n - one.n_kept for one in report.tensors)
    assert zeros >= 0.45 * report.n  # fine-tuning left them so


def test_structured_pruning_makes_a_smaller_dense_model(tmp_path):
    pytest.importorskip("torch_pruning")
    task = Task("cnn")
    before = sum(p.numel() for p in task.model.parameters())
    task.model.eval()
    report = compress_model(
        task.model, task.inputs, tmp_path / "store", prune=Prune(0.5, structured=True)
    )
    program = load_program(tmp_path / "store")
    after = sum(t.numel() for t in program.state_dict.values())
    assert after < 0.4 * before
    assert report.n > before > sum(one.n for one in report.tensors)
    assert load_model(tmp_path / "store")(task.inputs[0]).shape == (64, 8)


def test_what_is_no_model_is_refused(tmp_path, compressed):
    checkpoint.save({"w": np.zeros(3)}, tmp_path / "other")
    with pytest.raises(UnsupportedError, match="no model of layout"):
        load_model(tmp_path / "other")
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "nothing")
    state = checkpoint.load(None, compressed[0] / "store")
    del state["weights"]["blocks.0.qkv.weight"]
    checkpoint.save(state, tmp_path / "lost", metadata={"gpucodec.model": 1})
    with pytest.raises(CorruptionError, match=r"needs blocks\.0\.qkv\.weight"):
        load_model(tmp_path / "lost")
    assert issubclass(CorruptionError, gpucodec.GpucodecError)
