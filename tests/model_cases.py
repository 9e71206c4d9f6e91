# SPDX-License-Identifier: Apache-2.0
"""What the tests of models share: small models trained on the spot, and their metrics."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import torch
from models import GPT, Block
from torch import nn
from torch.nn import functional

CONTEXT = 32


@functools.cache
def text():
    """Bytes that have structure: this project's tests."""
    parts = sorted(Path(__file__).parent.glob("test_*.py"))
    raw = b"".join(path.read_bytes() for path in parts)
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).long() % 128


def text_batch(generator, batch=16):
    starts = torch.randint(len(text()) - CONTEXT - 1, (batch,), generator=generator)
    rows = torch.stack([text()[s : s + CONTEXT + 1] for s in starts])
    return rows[:, :-1], rows[:, 1:]


class Encoder(nn.Module):
    """BERT's shape: attention both ways, trained to say what stood where a mask is."""

    def __init__(self, vocabulary=128, width=128, layers=2):
        super().__init__()
        self.embed = nn.Embedding(vocabulary + 1, width)
        self.position = nn.Parameter(torch.randn(CONTEXT, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.ModuleList([layer, *(copy_of(layer) for _ in range(layers - 1))])
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens):
        x = self.embed(tokens) + self.position[: tokens.shape[1]]
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def copy_of(layer):
    import copy

    fresh = copy.deepcopy(layer)
    for parameter in fresh.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
    return fresh


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(), nn.Flatten(),
            nn.Linear(128 * 16, 128), nn.ReLU(), nn.Linear(128, 8),
        )  # fmt: skip

    def forward(self, images):
        return self.body(images)


def shapes(generator, n):
    """Images of noise with a bright bar at one of eight angles, and which one."""
    labels = torch.randint(8, (n,), generator=generator)
    angle = labels * torch.pi / 8
    grid = torch.linspace(-1, 1, 8)
    y, x = torch.meshgrid(grid, grid, indexing="ij")
    offset = (torch.rand(n, generator=generator) - 0.5)[:, None, None]
    distance = x * angle.sin()[:, None, None] - y * angle.cos()[:, None, None] + offset
    noise = torch.randn(n, 8, 8, generator=generator) * 0.3
    return (torch.exp(-((4 * distance) ** 2)) + noise)[:, None], labels


class Task:
    """A model with its data: how to train it, and its metric."""

    def __init__(self, name):
        self.name = name
        self.generator = torch.Generator().manual_seed(1)
        torch.manual_seed(0)
        self.model = {"gpt": self._gpt, "cnn": Cnn, "encoder": Encoder}[name]()
        self.higher_is_better = name == "cnn"
        fixed = torch.Generator().manual_seed(2)
        self.held_back = [self.batch(fixed, 64) for _ in range(4)]
        self.inputs = (self.held_back[0][0],)

    @staticmethod
    def _gpt():
        return GPT(vocabulary=128, width=128, layers=2, heads=4, context=CONTEXT)

    def batch(self, generator, n=16):
        if self.name == "cnn":
            return shapes(generator, n)
        tokens, following = text_batch(generator, n)
        if self.name == "gpt":
            return tokens, following
        hidden = torch.rand(tokens.shape, generator=generator) < 0.15
        return tokens.masked_fill(hidden, 128), tokens.masked_fill(~hidden, -100)

    def loss(self, model, batch):
        return functional.cross_entropy(model(batch[0]).flatten(0, -2), batch[1].flatten())

    def train(self, model, steps, rate=3e-3):
        model.train()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.0)
            schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
            for _ in range(steps):
                optimizer.zero_grad()
                self.loss(model, self.batch(self.generator)).backward()
                optimizer.step()
                schedule.step()
        model.eval()

    def evaluate(self, model):
        """Accuracy of the CNN, the others' loss, on data that training never sees."""
        with torch.no_grad():
            if self.name == "cnn":
                right = [(model(x).argmax(-1) == y).float().mean() for x, y in self.held_back]
                return float(sum(right) / len(right))
            return float(sum(self.loss(model, b) for b in self.held_back) / len(self.held_back))


__all__ = ["GPT", "Block", "Cnn", "Encoder", "Task", "shapes", "text_batch"]
