# SPDX-License-Identifier: Apache-2.0
"""Train a small byte-level GPT on the standard library's sources and keep what a trainer stores.

Nothing is downloaded: the text is there wherever Python is. The model is a toy, its tensors are
not noise: directions found on them carry over to large models, magnitudes need not.
"""

from __future__ import annotations

import math
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Size:
    """Dimensions of the model and length of its training."""

    layers: int
    width: int
    context: int
    batch: int
    steps: int
    capture: int  # sequences whose activations are kept


SIZES: Final = {
    "full": Size(layers=6, width=384, context=256, batch=4, steps=600, capture=8),
    "tiny": Size(layers=2, width=64, context=64, batch=4, steps=40, capture=4),
}
LEARNING_RATE: Final = 1e-3
BETAS: Final = (0.9, 0.95)  # what large language models train with
WEIGHT_DECAY: Final = 0.1
DROPOUT: Final = 0.1
LATER_STEPS: Final = 10  # distance of the second snapshot, for deltas
TEXT_BYTES: Final = 12_000_000


def sources() -> list[tuple[str, bytes]]:
    """Names and contents of the standard library's modules, in a stable order."""
    root = Path(sysconfig.get_path("stdlib"))
    total = 0
    found = []
    for path in sorted(root.rglob("*.py")):
        if "site-packages" in path.parts:
            continue
        text = path.read_bytes()
        found.append((path.relative_to(root).as_posix(), text))
        total += len(text)
        if total >= TEXT_BYTES:
            break
    return found


class Attention(nn.Module):
    """Causal self-attention of heads of 64."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // 64
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv
        y = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, length, width))


class Mlp(nn.Module):
    """The ReLU kind: its activations are the sparse ones."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.relu(self.up(x)))


class Block(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mlp = Attention(width), Mlp(width)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))


class Gpt(nn.Module):
    """A GPT over bytes, with the embedding as output matrix."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.tokens = nn.Embedding(256, size.width)
        self.positions = nn.Embedding(size.context, size.width)
        self.blocks = nn.ModuleList(Block(size.width) for _ in range(size.layers))
        self.norm = nn.LayerNorm(size.width)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                scale = math.sqrt(2 * size.layers) if residual else 1.0
                nn.init.normal_(parameter, std=0.02 / scale)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.norm(x), self.tokens.weight)


class Trainer:
    """AdamW over float32 master weights, forward and backward in bfloat16 autocast."""

    def __init__(self, size: Size, text: bytes) -> None:
        torch.manual_seed(0)
        self.size = size
        self.text = torch.from_numpy(np.frombuffer(text, np.uint8).copy())
        self.sampler = torch.Generator().manual_seed(1)
        self.model = Gpt(size)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), LEARNING_RATE, BETAS, weight_decay=WEIGHT_DECAY, fused=True
        )

    def batch(self, n_sequences: int) -> Tensor:
        """Token ids of random places, int64[n_sequences, context + 1]."""
        length = self.size.context + 1
        starts = torch.randint(
            len(self.text) - length, (n_sequences,), generator=self.sampler
        ).tolist()
        return torch.stack([self.text[start : start + length] for start in starts]).long()

    def backward(self, *, autocast: bool) -> float:
        """Fresh gradients of one batch; returns the loss."""
        ids = self.batch(self.size.batch)
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = self.model(ids[:, :-1])
        loss = functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        return float(loss)

    def step(self, progress: float) -> float:
        """One update; ``progress`` in 0 ... 1 sets the learning rate (warm-up, then cosine)."""
        rate = min(1.0, progress / 0.05) * (0.1 + 0.45 * (1 + math.cos(math.pi * progress)))
        for group in self.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
        loss = self.backward(autocast=True)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss

    def weights(self) -> Tensors:
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def gradients(self, *, autocast: bool) -> Tensors:
        self.backward(autocast=autocast)
        return {n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None}

    def moments(self, key: str) -> Tensors:
        """``exp_avg`` or ``exp_avg_sq`` of each parameter."""
        state = self.optimizer.state
        return {name: state[p][key].clone() for name, p in self.model.named_parameters()}

    @torch.no_grad()
    def activations(self) -> dict[str, Tensors]:
        """What the layers put out in bfloat16, by kind and layer."""
        kept: dict[str, Tensors] = {"pre_relu": {}, "post_relu": {}, "attention": {}}
        handles = []

        def keep(kind: str, layer: str) -> Callable[[nn.Module, Any, Tensor], None]:
            def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
                kept[kind][layer] = output.detach().contiguous()

            return hook

        for index, block in enumerate(self.model.blocks):
            layer = f"blocks.{index}"
            for kind, module in (
                ("pre_relu", block.mlp.up),
                ("post_relu", block.mlp.relu),
                ("attention", block.attention.out),
            ):
                handles.append(module.register_forward_hook(keep(kind, layer)))
        with torch.autocast("cpu", torch.bfloat16):
            self.model(self.batch(self.size.capture)[:, :-1])
        for handle in handles:
            handle.remove()
        return kept


def train(size: Size, report: Callable[[str], None]) -> tuple[dict[str, Tensors], dict[str, Any]]:
    """Train and return the snapshots by name, and the facts of the run (losses, seconds).

    Raises ``RuntimeError`` if the loss did not fall: untrained tensors must not be measured.
    """
    trainer = Trainer(size, b"\n".join(text for _, text in sources()))
    losses = []
    begin = time.perf_counter()
    for step in range(size.steps):
        losses.append(trainer.step(step / size.steps))
        if step % 50 == 0 or step == size.steps - 1:
            report(f"step {step:4d}  loss {losses[-1]:.3f}  {time.perf_counter() - begin:5.0f} s")
    tail = sum(losses[-10:]) / 10
    if not tail < losses[0] - 1:
        raise RuntimeError(f"loss fell from {losses[0]:.3f} to {tail:.3f} only")
    snapshots = {
        "weights": trainer.weights(),
        "exp_avg": trainer.moments("exp_avg"),
        "exp_avg_sq": trainer.moments("exp_avg_sq"),
        "gradients": trainer.gradients(autocast=False),
        "gradients_autocast": trainer.gradients(autocast=True),
        **trainer.activations(),
    }
    losses += [trainer.step(1.0) for _ in range(LATER_STEPS)]
    snapshots["weights_later"] = trainer.weights()
    seconds = time.perf_counter() - begin
    return snapshots, {"losses": losses, "seconds": round(seconds, 1), "torch": torch.__version__}
