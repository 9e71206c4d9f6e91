# SPDX-License-Identifier: Apache-2.0
"""Train a small GPT, change its optimizer's state as a lossy checkpoint would, and train on.

The text is the standard library's sources. One thread, fixed seeds: runs differ only by what
happened to the state.
"""

from __future__ import annotations

import copy
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

Change = Callable[[str, Tensor], Tensor]  # kind ("exp_avg", "exp_avg_sq") and state to new state
EVALUATION_BATCHES = 8
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Size:
    """Dimensions of the model, steps before the checkpoint and after it."""

    layers: int
    width: int
    context: int
    batch: int
    steps: int
    more: int


QUICK = Size(layers=2, width=64, context=64, batch=8, steps=150, more=40)
FULL = Size(layers=3, width=128, context=128, batch=16, steps=400, more=100)


class Block(nn.Module):
    """Pre-norm attention and GELU MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = self.qkv(self.norm1(x)).view(batch, length, 3, width // 32, 32)
        q, k, v = heads.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(x.shape))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Model(nn.Module):
    """A byte-level GPT with a tied embedding."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.tokens = nn.Embedding(256, size.width)
        self.places = nn.Embedding(size.context, size.width)
        self.blocks = nn.Sequential(*(Block(size.width) for _ in range(size.layers)))
        self.norm = nn.LayerNorm(size.width)
        for weight in (self.tokens.weight, self.places.weight):
            nn.init.normal_(weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        places = self.places(torch.arange(x.shape[1]))
        return self.norm(self.blocks(self.tokens(x) + places)) @ self.tokens.weight.T


class Run:
    """A model in training; `copy.deepcopy` makes the twin that is changed."""

    def __init__(self, size: Size, beta2: float) -> None:
        torch.manual_seed(0)
        self.size = size
        self.model = Model(size)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), LEARNING_RATE, betas=(0.9, beta2), weight_decay=0.1
        )
        self.done = 0

    def loss(self, seed: int) -> Tensor:
        """On a batch that the seed alone decides."""
        text = corpus()
        generator = torch.Generator().manual_seed(seed)
        starts = torch.randint(
            len(text) - self.size.context - 1, (self.size.batch,), generator=generator
        )
        rows = torch.stack([text[s : s + self.size.context + 1] for s in starts]).long()
        logits = self.model(rows[:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())

    def train(self, steps: int) -> list[float]:
        """The losses of some more steps."""
        losses = []
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss = self.loss(self.done)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.done += 1
            losses.append(loss.item())
        return losses

    @torch.no_grad()
    def evaluate(self) -> float:
        """Mean loss on batches that training does not see."""
        return sum(self.loss(-1 - i).item() for i in range(EVALUATION_BATCHES)) / EVALUATION_BATCHES

    def changed(self, change: Change) -> Run:
        """A twin whose matrices' optimizer state went through `change`."""
        twin = copy.deepcopy(self)
        for state in twin.optimizer.state.values():
            for kind in ("exp_avg", "exp_avg_sq"):
                if state[kind].ndim > 1:
                    state[kind].copy_(change(kind, state[kind]))
        return twin


def experiment(
    size: Size, beta2: float, changes: dict[str, Change]
) -> dict[str, tuple[float, float]]:
    """For each change (largest increase of the loss in the first 20 steps, that of the final
    evaluation), against training on from the state as it was.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        run = Run(size, beta2)
        run.train(size.steps)
        exact = copy.deepcopy(run)
        losses, end = exact.train(size.more), exact.evaluate()
        results = {}
        for name, change in changes.items():
            twin = run.changed(change)
            theirs = twin.train(size.more)
            first = max(b - a for a, b in zip(losses[:20], theirs[:20], strict=True))
            results[name] = (first, twin.evaluate() - end)
        return results
    finally:
        torch.set_num_threads(threads)


_text: list[Tensor] = []


def corpus() -> Tensor:
    """Two megabytes of Python sources, uint8."""
    if not _text:
        folder = Path(sysconfig.get_paths()["stdlib"])
        data = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))[:2_000_000]
        _text.append(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    return _text[0]
