# SPDX-License-Identifier: Apache-2.0
"""A policy gives up only what it says, of tensors that it is sure about."""

from __future__ import annotations

import dataclasses
import json
import warnings

import numpy as np
import pytest
import torch
from checkpoint_cases import Model, bits, same, training_state

import gpucodec
from gpucodec import TensorConfig, checkpoint
from gpucodec.checkpoint import Policy, Rule
from gpucodec.checkpoint.kinds import KINDS, kinds_of
from gpucodec.checkpoint.policy import policy_of
from gpucodec.checkpoint.structure import flatten


def kinds(state):
    return kinds_of(flatten(state))


def last(found):
    """Kinds by the last part of the name."""
    return {name.rpartition("/")[2]: kind for name, kind in found.items()}


class Lion(torch.optim.Optimizer):
    """An optimizer with one moment, as torch lacks it."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                moment = state.setdefault("exp_avg", torch.zeros_like(parameter))
                parameter.sub_((0.9 * moment + 0.1 * parameter.grad).sign(), alpha=group["lr"])
                moment.lerp_(parameter.grad, 0.01)


@pytest.mark.parametrize(
    ("make", "options", "expected"),
    [
        (
            torch.optim.AdamW,
            {},
            {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "step": "other"},
        ),
        (torch.optim.AdamW, {"fused": True}, {"exp_avg_sq": "exp_avg_sq", "step": "other"}),
        (torch.optim.Adam, {"amsgrad": True}, {"max_exp_avg_sq": "exp_avg_sq", "step": "other"}),
        (torch.optim.SGD, {"momentum": 0.9}, {"momentum_buffer": "exp_avg"}),
        (
            torch.optim.Adafactor,
            {},
            {"row_var": "exp_avg_sq", "col_var": "exp_avg_sq", "step": "other"},
        ),
        (torch.optim.RMSprop, {"centered": True}, {"square_avg": "other", "grad_avg": "other"}),
        (torch.optim.Adagrad, {}, {"sum": "other", "step": "other"}),
        (Lion, {}, {"exp_avg": "exp_avg"}),
    ],
)
def test_kinds_of_optimizer_states(make, options, expected):
    found = kinds(training_state(2, optimizer=make, **options))
    optimizer = last({k: v for k, v in found.items() if k.startswith("optimizer/")})
    assert {name: optimizer[name] for name in expected} == expected
    assert found["model/mix.weight"] == found["model/norm.bias"] == "param"
    assert found["model/batch.running_mean"] == found["model/batch.num_batches_tracked"] == "buffer"
    assert found["rng/torch"] == found["rng/numpy/1"] == "other"
    assert set(found.values()) <= set(KINDS)


def test_kinds_of_sharded_and_flattened_states():
    """Names as FSDP, DCP, apex and Megatron-LM give them."""
    one = torch.ones(4, 4)
    found = kinds(
        {
            "by_name": {
                "state": {"layers.0.w": {"exp_avg": one, "step": one[0, 0]}},
                "param_groups": [],
            },
            "flat": {
                "state._fsdp_wrapped_module._flat_param.exp_avg_sq": one,
                "state.layers.0.exp_avg.exp_avg": one,
                "state.layers.0.w.step": one[0, 0],
                "param_groups.layers.0.w.lr": 0.1,
            },
            "apex": {"state": {}, "param_groups": [], "fp32_from_fp16": [[one]]},
            "mega": {
                "state": {0: {"master_param": one, "exp_avg": {"deep": one}}},
                "param_groups": [],
            },
            "grads": {"w": one},
            "optimizers": [{"state": {0: {"exp_avg": one}}, "param_groups": [{"lr": one}]}],
        }
    )
    assert found == {
        "by_name/state/layers.0.w/exp_avg": "exp_avg",
        "by_name/state/layers.0.w/step": "other",
        "flat/state._fsdp_wrapped_module._flat_param.exp_avg_sq": "exp_avg_sq",
        "flat/state.layers.0.exp_avg.exp_avg": "exp_avg",
        "flat/state.layers.0.w.step": "other",
        "apex/fp32_from_fp16/0/0": "master_weight",
        "mega/state/0/master_param": "master_weight",
        "mega/state/0/exp_avg/deep": "other",
        "grads/w": "grad",
        "optimizers/0/state/0/exp_avg": "exp_avg",
        "optimizers/0/param_groups/0/lr": "other",
    }


def test_what_only_looks_like_a_moment_is_none():
    """Without an optimizer around it, a name says nothing."""
    one = torch.ones(4, 4)
    found = kinds(
        {
            "model": {"exp_avg": one, "layer.exp_avg_sq": one, "state.exp_avg": one},
            "loose": {0: {"exp_avg": one}},
            "half": {"state": {0: {"exp_avg_sq": one}}},
            "ints": {
                "state": {0: {"exp_avg": one.int(), "exp_avg_sq": one.int()}},
                "param_groups": [],
            },
        }
    )
    assert set(found.values()) == {"other"}


def test_rules_count_in_order_by_name_kind_type_and_size():
    small, large = TensorConfig(block_size=64), TensorConfig(block_size=4096)
    policy = Policy(
        (
            Rule(small, name="model/*.weight", dtypes=("float32",)),
            Rule(large, kinds=("param",), min_numel=10),
        )
    )
    assert policy.config("model/a.weight", "param", "float32", (99,)) == small
    assert policy.config("model/a.weight", "param", "bfloat16", (99,)) == large
    assert policy.config("model/a.bias", "param", "float32", (99,)) == large
    assert policy.config("model/a.bias", "param", "float32", (9,)) == TensorConfig()
    assert policy.config("a", "other", "float32", (99,)) == TensorConfig()
    assert hash(policy) == hash(dataclasses.replace(policy))
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.name = "x"


def test_a_policy_decides_how_arrays_are_stored(tmp_path):
    policy = Policy((Rule(TensorConfig(block_size=256), name="*embed*"),), name="mine")
    state = training_state()
    checkpoint.save(state, tmp_path, policy)
    info = checkpoint.inspect(tmp_path)
    codecs = {row.name: row.codec for row in info.tensors}
    assert info.policy == "mine"
    assert codecs["model/embed.weight"]["configuration"] == {"block_size": 256}
    assert "configuration" not in codecs["model/mix.weight"]
    assert same(checkpoint.load(None, tmp_path)["model"], state["model"])


def test_bad_policies_are_refused():
    for wrong in ({"kinds": ("weights",)}, {"kinds": "param"}):
        with pytest.raises(ValueError, match="kinds are"):
            Rule(TensorConfig(), **wrong)
    with pytest.raises(TypeError, match="TensorConfig or a QuantizeConfig, not str"):
        Rule("int8")
    with pytest.raises(ValueError, match="lossless, resume, archive"):
        policy_of("smallest")


def resume_state():
    """A state dict with moments large enough to be quantized."""
    torch.manual_seed(0)
    model = Model(width=64, vocabulary=200)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(3):
        model(torch.randint(0, 200, (64,))).square().mean().backward()
        optimizer.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
    }


@pytest.mark.parametrize("name", ["resume", "archive"])
def test_lossy_presets_touch_only_the_moments(name, tmp_path):
    state = resume_state()
    checkpoint.save(state, tmp_path, name)
    checkpoint.verify(tmp_path)
    loaded = checkpoint.load(None, tmp_path)
    assert same(state["model"], loaded["model"])
    assert same(state["rng"], loaded["rng"])
    n_lossy = 0
    for number, moments in state["optimizer"]["state"].items():
        for key, tensor in moments.items():
            other = loaded["optimizer"]["state"][number][key]
            if bits(tensor) == bits(other):
                continue
            n_lossy += 1
            assert tensor.numel() >= 4096
            assert key in {"exp_avg", "exp_avg_sq"}
            if key == "exp_avg_sq":  # relative precision, and nothing becomes zero
                assert torch.equal(tensor == 0, other == 0)
                assert torch.allclose(tensor, other, rtol=0.1, atol=0)
    assert n_lossy >= 4
    lossless = checkpoint.save(state, tmp_path / "lossless")
    assert checkpoint.inspect(tmp_path).encoded_bytes < lossless.encoded_bytes * 0.8


def test_quantized_tensors_are_sliced_checked_and_written_by_dcp(tmp_path):
    import torch.distributed.checkpoint as dcp

    from gpucodec.checkpoint.dcp import ZarrReader, ZarrWriter

    state = resume_state()
    checkpoint.save(state, tmp_path / "plain", "resume")
    writer = ZarrWriter(tmp_path / "dcp", policy="resume")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"optimizer": state["optimizer"]}, storage_writer=writer, no_dist=True)
        name = "optimizer/state/0/exp_avg_sq"
        opened = [checkpoint.open(tmp_path / where) for where in ("plain", "dcp")]
        whole = [one[name][:] for one in opened]
        assert all(one[name].codec["name"] == "gpucodec.quantize" for one in opened)
        assert bits(whole[0]) == bits(whole[1])
        assert bits(opened[0][name][5:9, ::3]) == bits(whole[0][5:9, ::3])
        target = {"optimizer": {"state": {"0": {"exp_avg_sq": torch.zeros_like(whole[0])}}}}
        dcp.load(target, storage_reader=ZarrReader(tmp_path / "dcp"), no_dist=True)
    assert bits(target["optimizer"]["state"]["0"]["exp_avg_sq"]) == bits(whole[0])
    path = tmp_path / "plain" / opened[0].manifest.tensors[name].array / "c.0.0"
    content = path.read_bytes()
    for at in range(0, len(content), 101):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        with pytest.raises(gpucodec.GpucodecError):
            checkpoint.verify(tmp_path / "plain")
        with pytest.raises(gpucodec.GpucodecError):
            checkpoint.load(None, tmp_path / "plain")


def test_steps_and_random_states_are_exact_whatever_a_rule_says(tmp_path):
    state = resume_state()
    config = gpucodec.QuantizeConfig("int8", bound=gpucodec.ErrorBound(rel=0.1))
    state["optimizer"]["state"][0]["unknown"] = torch.randn(100, 100)
    rules = Policy((Rule(config, kinds=("exp_avg", "exp_avg_sq", "param")),))
    checkpoint.save(state, tmp_path, rules)
    loaded = checkpoint.load(None, tmp_path)
    assert same(state["rng"], loaded["rng"])
    for number, moments in state["optimizer"]["state"].items():
        assert same(moments["step"], loaded["optimizer"]["state"][number]["step"])
    assert same(
        state["optimizer"]["state"][0]["unknown"], loaded["optimizer"]["state"][0]["unknown"]
    )
    assert not same(state["model"]["mix.weight"], loaded["model"]["mix.weight"])
    with pytest.raises(gpucodec.StateFormatError):
        Rule(gpucodec.QuantizeConfig("int8"), kinds=("exp_avg_sq",))
    with pytest.raises(gpucodec.StateFormatError):
        checkpoint.save(state, tmp_path, Policy((Rule(gpucodec.QuantizeConfig("nf4")),)))


def test_codecs_in_the_manifest_are_those_in_the_arrays(tmp_path):
    checkpoint.save(training_state(), tmp_path, "resume")
    for path, array in checkpoint.open(tmp_path).manifest.arrays.items():
        stored = json.loads((tmp_path / path / "zarr.json").read_text())
        assert stored["codecs"] == [dict(array.codec)]
        assert stored["data_type"] == array.dtype
        assert tuple(stored["shape"]) == array.shape
        assert np.prod(array.chunks) >= 1
