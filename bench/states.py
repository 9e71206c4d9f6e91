# SPDX-License-Identifier: Apache-2.0
"""The mixed-precision AdamW state of the corpus's model, at the end of its training and ten steps on."""

from __future__ import annotations

import os

import torch
from safetensors.torch import load_file, save_file

from .corpus import Corpus, open_corpus
from .train import LATER_STEPS, SIZES, Trainer, sources

PARTS = {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "weights": "master_param"}
"""Snapshots of the corpus, and what an optimizer calls them."""
GROUP = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def mixed(parts, step):
    """What a trainer with master weights saves: bf16 weights, fp32 masters and both moments."""
    names = list(parts["weights"])
    state = {
        i: {
            "step": torch.tensor(float(step)),
            **{PARTS[part]: tensors[name] for part, tensors in parts.items()},
        }
        for i, name in enumerate(names)
    }
    model = {name: one.bfloat16() for name, one in parts["weights"].items()}
    groups = [{**GROUP, "params": list(state)}]
    return {"model": model, "optimizer": {"state": state, "param_groups": groups}}


def state_of(size):
    """The state at the end of the corpus's training."""
    return mixed(snapshots(open_corpus(size)), SIZES[size].steps)


def later_state_of(size):
    """The state ten steps on; trained once, then cached beside the corpus."""
    corpus = open_corpus(size)
    path = corpus.folder / "ten_steps_on.safetensors"
    if not path.exists():
        print(f"training {LATER_STEPS} steps more, once, into {path}", flush=True)
        flat = {
            f"{p}/{n}": one for p, ts in train_on(corpus, size).items() for n, one in ts.items()
        }
        partial = path.with_suffix(f".{os.getpid()}")
        save_file(flat, partial)
        partial.rename(path)
    parts = {part: {} for part in PARTS}
    for key, one in load_file(path).items():
        part, _, name = key.partition("/")
        parts[part][name] = one
    order = snapshots(corpus)["weights"]
    parts = {part: {name: tensors[name] for name in order} for part, tensors in parts.items()}
    return mixed(parts, SIZES[size].steps + LATER_STEPS)


def snapshots(corpus: Corpus):
    """By part, the tensors by name, vectors included."""
    return {part: load_file(corpus.folder / f"{part}.safetensors") for part in PARTS}


def train_on(corpus: Corpus, size):
    """Resume the corpus's training where its snapshots were taken."""
    trainer = Trainer(SIZES[size], b"\n".join(text for _, text in sources()))
    parts = snapshots(corpus)
    trainer.model.load_state_dict(parts["weights"])
    for name, parameter in trainer.model.named_parameters():
        moments = {key: parts[key][name] for key in ("exp_avg", "exp_avg_sq")}
        trainer.optimizer.state[parameter] = {
            "step": torch.tensor(float(SIZES[size].steps)),
            **moments,
        }
    trainer.sampler.manual_seed(2)
    for _ in range(LATER_STEPS):
        trainer.step(1.0)
    moments = {key: trainer.moments(key) for key in ("exp_avg", "exp_avg_sq")}
    return {**moments, "weights": trainer.weights()}


def flat_of(node, name=""):
    """Tensors by their paths, for formats without nesting."""
    if isinstance(node, torch.Tensor):
        return {name: node}
    items = node.items() if isinstance(node, dict) else ()
    return {k: v for key, one in items for k, v in flat_of(one, f"{name}/{key}").items()}
