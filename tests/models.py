# SPDX-License-Identifier: Apache-2.0
"""Small models, and the gradients that training them gives, for the tests of activations."""

from __future__ import annotations

import contextlib

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, width, heads, activation=nn.GELU):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), activation(), nn.Linear(4 * width, width), nn.Dropout(0.1)
        )

    def forward(self, x):
        batch, length, width = x.shape
        parts = self.qkv(self.norm1(x)).split(width, -1)
        q, k, v = (p.view(batch, length, self.heads, -1).transpose(1, 2) for p in parts)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    def __init__(self, vocabulary=64, width=32, layers=2, heads=2, context=32, activation=nn.GELU):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.randn(context, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads, activation) for _ in range(layers))
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight  # tied, as usual

    def forward(self, tokens):
        x = self.embed(tokens) + self.position[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def gpt_batch(generator, vocabulary=64, batch=4, length=32):
    tokens = torch.randint(vocabulary, (batch, length + 1), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


def gpt_loss(model, batch):
    tokens, targets = batch
    return functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())


class CNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
            nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(),
            nn.Linear(16 * 36, 10),
        )  # fmt: skip

    def forward(self, images):
        return self.body(images)


class LSTM(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lstm = nn.Embedding(40, 24), nn.LSTM(24, 32, 2, batch_first=True)
        self.head = nn.Linear(32, 40)

    def forward(self, tokens):
        return self.head(self.lstm(self.embed(tokens))[0])


def gradients(model, loss_of, batches, context=contextlib.nullcontext, *, steps=1, inside=False):
    """Losses and gradients of some steps of SGD, one after the other."""
    torch.manual_seed(1)  # of dropout
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    found = []
    for step in range(steps):
        optimizer.zero_grad()
        with context():
            loss = loss_of(model, batches[step % len(batches)])
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        found.append(loss.detach().clone())
        found.extend(p.grad.clone() for p in model.parameters() if p.grad is not None)
        optimizer.step()
    return found


def equal(found, expected):
    """Whether two lists of tensors agree in every bit."""
    return len(found) == len(expected) and all(
        a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))
        for a, b in zip(found, expected, strict=True)
    )


def bits(tensor):
    return tensor.detach().resolve_conj().contiguous().view(-1).view(torch.uint8)
