# SPDX-License-Identifier: Apache-2.0
"""A small GPT that may be killed at any time, and goes on as if nothing had happened.

    python resume.py FOLDER --steps 40            # train, saving every 5 steps
    python resume.py FOLDER --steps 40 --kill 23  # the same, killed in the middle
    python resume.py FOLDER --steps 40            # resumes; the same weights to the last bit

It learns to continue this very file, byte by byte.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
from pathlib import Path

import torch
from torch import nn

from gpucodec.checkpoint import CheckpointSeries

CONTEXT, WIDTH, HEADS, LAYERS, BATCH = 64, 64, 4, 2, 8


class Block(nn.Module):
    """Causal self-attention and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[batch, time, WIDTH] to the same."""
        batch, time, _ = x.shape
        heads = self.qkv(self.norm1(x)).view(batch, time, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, time, WIDTH))
        return x + nn.functional.dropout(self.down(nn.functional.gelu(self.up(self.norm2(x)))), 0.1)


class GPT(nn.Module):
    """A language model over bytes; the head is tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(256, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """int64[batch, time] to logits, float[batch, time, 256]."""
        x = self.embed(tokens) + self.position.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def train(folder: str, steps: int, kill: int | None) -> None:
    """Train up to `steps`, from the last checkpoint if there is one."""
    text = torch.tensor(list(Path(__file__).read_bytes()))
    torch.manual_seed(0)
    model = GPT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)

    with CheckpointSeries(folder, keep=2) as series:
        first = 0
        found = series.resume()
        if found is not None:
            state = found.state_dict
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
            torch.set_rng_state(state["rng"])  # batches and dropout go on where they were
            first = found.step
            print(f"resumed at step {first}")
        for step in range(first, steps):
            starts = torch.randint(0, len(text) - CONTEXT - 1, (BATCH,))
            batch = torch.stack([text[start : start + CONTEXT + 1] for start in starts])
            logits = model(batch[:, :-1])
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if (step + 1) % 5 == 0:
                state = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "rng": torch.get_rng_state(),
                }
                series.save_async(state, step + 1, metadata={"loss": loss.item()})
            if step + 1 == kill:
                os.kill(os.getpid(), signal.SIGKILL)  # as the scheduler of a cluster would
    digest = hashlib.sha256()
    for tensor in model.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    print(f"step {steps}, loss {loss.item():.4f}, weights {digest.hexdigest()[:16]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--kill", type=int, help="kill the process behind this step")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # sums in one order, so that two runs are alike
    train(arguments.folder, arguments.steps, arguments.kill)
