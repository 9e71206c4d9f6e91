# SPDX-License-Identifier: Apache-2.0
"""Harvest a model's activations, then train a sparse autoencoder on them, as interpretability does.

``python docs/examples/harvest_activations.py acts.zarr --tokens 1000000``

Kill it and start it again: the harvest goes on behind the last complete row.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch.utils.data import DataLoader

from gpucodec.activations import ActivationDataset, estimate_space, record_activations

VOCABULARY, WIDTH, BATCH, LENGTH = 256, 64, 8, 32
POINTS = ["1.layers.*.linear2"]  # the outputs of all MLPs


def build() -> torch.nn.Module:
    """The model under study."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True)
    model = torch.nn.Sequential(
        torch.nn.Embedding(VOCABULARY, WIDTH),
        torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
    )
    return model.train()  # evaluation mode would take a fused path that runs no modules


def batch(number: int) -> torch.Tensor:
    """Token ids, the same for the same number: what makes a harvest repeatable."""
    generator = torch.Generator().manual_seed(number)
    return torch.randint(VOCABULARY, (BATCH, LENGTH), generator=generator)


def harvest(store: str, n_tokens: int) -> int:
    """Write one row a token for every point; the number of batches that had to be run."""
    model, n_run = build(), 0
    print(estimate_space(model, POINTS, batch(0), n_tokens, store, "bfloat16"))
    with torch.no_grad(), record_activations(model, POINTS, store, "bfloat16") as recorder:
        for number in range(n_tokens // (BATCH * LENGTH)):
            if not recorder.skip(BATCH * LENGTH):  # False from the first row on that is not there
                model(batch(number))
                n_run += 1
    return n_run


def train_autoencoder(store: str, point: str, epochs: int, workers: int) -> list[float]:
    """Train a sparse autoencoder on rows in random order; the loss of each epoch."""
    torch.manual_seed(0)
    dataset = ActivationDataset(store, [point], batch_size=256)
    encoder, decoder = torch.nn.Linear(WIDTH, 4 * WIDTH), torch.nn.Linear(4 * WIDTH, WIDTH)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 1e-3)
    losses = []
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        total = 0.0
        for rows in DataLoader(dataset, batch_size=None, num_workers=workers):
            x = rows[point].float()  # and rows["token_ids"], for looking up what they were
            features = encoder(x).relu()
            loss = (decoder(features) - x).square().mean() + 1e-3 * features.abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)
        losses.append(total / dataset.rows)
        print(f"epoch {epoch}: loss {losses[-1]:.4f}")
    return losses


def main(arguments: Any = None) -> tuple[int, list[float]]:
    """Parse the command line, harvest, train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store")
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    n_run = harvest(options.store, options.tokens)
    point = "1.layers.0.linear2"
    return n_run, train_autoencoder(options.store, point, options.epochs, options.workers)


if __name__ == "__main__":
    main()
