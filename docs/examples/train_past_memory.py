# SPDX-License-Identifier: Apache-2.0
"""Train a transformer whose activations do not fit the memory given to them.

``python docs/examples/train_past_memory.py /scratch --layers 12 --budget-mb 64``
"""

from __future__ import annotations

import argparse
import logging
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from gpucodec.activations import StreamStats, stream_activations

VOCABULARY = 256


def build(width: int, layers: int) -> torch.nn.Module:
    """A small causal transformer over bytes."""
    layer = torch.nn.TransformerEncoderLayer(
        width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True
    )
    return torch.nn.Sequential(
        torch.nn.Embedding(VOCABULARY, width),
        torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False),
        torch.nn.Linear(width, VOCABULARY),
    )


def train(
    folder: str, *, width: int, layers: int, steps: int, batch: int, length: int, budget: int
) -> StreamStats:
    """Train on a text that repeats; the gradients are those of training without the context."""
    torch.manual_seed(0)
    model = build(width, layers)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    text = torch.arange(10_000) * 7 % VOCABULARY
    # One context for all steps: it keeps its threads and files from one to the next.
    stream = stream_activations(folder, min_bytes=1 << 16, max_inflight_bytes=budget)
    for step in range(steps):
        starts = torch.randint(len(text) - length - 1, (batch,))
        tokens = torch.stack([text[s : s + length + 1] for s in starts.tolist()])
        with stream:  # around the forward pass
            logits = model(tokens[:, :-1])
            loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()  # reads the activations back, ahead of need
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step}: loss {loss.item():.3f}")
    return stream.stats()


def main(arguments: Any = None) -> StreamStats:
    """Parse the command line, train, say what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="on a fast local disk")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--budget-mb", type=float, default=64)
    options = vars(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO)  # a line a step: bytes, ratio, waiting
    budget = int(options.pop("budget_mb") * 1e6)
    stats = train(options.pop("folder"), budget=budget, **options)
    print(f"all steps: {stats.line()}")
    return stats


if __name__ == "__main__":
    main()
