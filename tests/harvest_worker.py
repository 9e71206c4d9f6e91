# SPDX-License-Identifier: Apache-2.0
"""A harvest that is killed from outside, again and again: batch by batch, the same every time."""

from __future__ import annotations

import sys

import torch

from gpucodec.activations import record_activations, rows

N_BATCHES = 40
TOKENS_A_BATCH = 7 * 31  # divides no chunk


class Model(torch.nn.Module):
    """Rows that say which row they are."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Identity(), torch.nn.Identity()

    def forward(self, ids):
        x = ids.unsqueeze(-1).float() + torch.arange(24) / 32
        return self.second(self.first(x).bfloat16() + 1)


def batch(number):
    start = number * TOKENS_A_BATCH
    return torch.arange(start, start + TOKENS_A_BATCH).reshape(7, 31)


def harvest(folder, n_batches=N_BATCHES):
    rows.CHUNK_BYTES = 24 * 4 * 256  # 256 rows: many chunks of little
    with torch.no_grad(), record_activations(model := Model(), ["first", "second"], folder) as r:
        for number in range(n_batches):
            if not r.skip(TOKENS_A_BATCH):
                model(batch(number))
                print(r._store.rows, flush=True)


if __name__ == "__main__":
    harvest(sys.argv[1])
    print("done", flush=True)
