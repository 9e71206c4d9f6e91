# SPDX-License-Identifier: Apache-2.0
"""Whole models: what each stage gains, and which coder comes last.

``python -m bench.model`` trains a GPT (the benchmark's own), a small CNN and a BERT-style encoder,
compresses them to an eighth or less, and prints the reports. ``coders`` compares coders on the
bytes that quantization leaves; ``bits`` measures pruned bf16 weights beside arithmetic.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import gpucodec
from gpucodec import LZConfig, QuantizeConfig
from gpucodec.model import Prune, Quantize, compress_model, load_model
from gpucodec.model.account import effective_bits, n_m_bits
from gpucodec.model.prune import apply, masks

from .corpus import open_corpus
from .record import record
from .train import SIZES, Gpt, sources

Tensor = torch.Tensor
CONTEXT = 64
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FEWEST_BARS = 20  # of a page whose plots have data


def text() -> Tensor:
    raw = b"\n".join(part for _, part in sources())
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).long()


class Encoder(nn.Module):
    """BERT's shape over bytes: says what stood where a mask is."""

    def __init__(self, width: int = 192, layers: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(257, width)
        self.position = nn.Parameter(torch.randn(CONTEXT, width) * 0.02)
        made = nn.TransformerEncoderLayer(
            width, 6, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(made, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layers(self.embed(tokens) + self.position))


class Cnn(nn.Module):
    """For the handwritten digits that scikit-learn brings, 8 x 8."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(64, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(128 * 16, 128), nn.ReLU(), nn.Linear(128, 10)),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)


Batch = tuple[Tensor, Tensor]
Task = tuple[nn.Module, Callable[[torch.Generator, int], Batch], list[Batch], bool]


def gpt() -> Task:
    model, corpus = Gpt(SIZES["full"]), text()
    weights = open_corpus("full").folder / "weights.safetensors"
    from safetensors.torch import load_file

    model.load_state_dict(load_file(weights))
    length = SIZES["full"].context

    def batch(generator: torch.Generator, n: int) -> Batch:
        starts = torch.randint(len(corpus) - length - 1, (n,), generator=generator)
        rows = torch.stack([corpus[s : s + length + 1] for s in starts])
        return rows[:, :-1], rows[:, 1:]

    held = torch.Generator().manual_seed(2)
    return model.eval(), batch, [batch(held, 4) for _ in range(4)], False


def encoder() -> Task:
    corpus = text()

    def batch(generator: torch.Generator, n: int) -> Batch:
        starts = torch.randint(len(corpus) - CONTEXT, (n,), generator=generator)
        rows = torch.stack([corpus[s : s + CONTEXT] for s in starts])
        hidden = torch.rand(rows.shape, generator=generator) < 0.15
        return rows.masked_fill(hidden, 256), rows.masked_fill(~hidden, -100)

    torch.manual_seed(0)
    model, held = Encoder(), torch.Generator().manual_seed(2)
    train(model, batch, 400, 2e-3)
    return model, batch, [batch(held, 64) for _ in range(4)], False


def cnn() -> Task:
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.from_numpy(found.images[:, None] / 16).float()
    labels = torch.from_numpy(found.target).long()

    def batch(generator: torch.Generator, n: int) -> Batch:
        rows = torch.randint(1200, (n,), generator=generator)
        return images[rows], labels[rows]

    torch.manual_seed(0)
    model = Cnn()
    train(model, batch, 300, 2e-3)
    return model, batch, [(images[1200:], labels[1200:])], True


def train(model: nn.Module, batch: Any, steps: int, rate: float, n: int = 16) -> None:
    model.train()
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for _ in range(steps):
        inputs, targets = batch(generator, n)
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs).flatten(0, -2), targets.flatten()).backward()
        optimizer.step()
        schedule.step()
    model.eval()


TASKS = {
    # how to make it, steps and rate of fine-tuning, sequences of a batch, rules of quantization
    "cnn": (cnn, 500, 5e-4, 32, {}),
    "encoder": (encoder, 150, 1e-3, 16, {"*embed*": "int8", "position": "int8", "head*": "int8"}),
    "gpt": (gpt, 60, 3e-4, 4, {"tokens*": "int8", "positions*": "int8"}),
}


def compress(name: str, amount: float) -> None:
    make, steps, rate, n, rules = TASKS[name]
    begin = time.perf_counter()
    model, batch, held, higher = make()

    @torch.no_grad()
    def evaluate(candidate: Any) -> float:
        found = []
        for inputs, targets in held:
            logits = candidate(inputs)
            right = (logits.argmax(-1) == targets).float().mean()
            loss = functional.cross_entropy(logits.flatten(0, -2), targets.flatten())
            found.append(float(right if higher else loss))
        return sum(found) / len(found)

    print(f"## {name}: trained in {time.perf_counter() - begin:.0f} s", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        report = compress_model(
            model,
            (held[0][0],),
            f"{folder}/store",
            prune=Prune(amount),
            quantize=Quantize(rules=rules),
            evaluate=evaluate,
            higher_is_better=higher,
            finetune=lambda pruned: train(pruned, batch, steps, rate, n),
        )
        files = sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())
        again = evaluate(load_model(f"{folder}/store"))
        page = in_browser(report, Path(folder))
    from gpucodec.model import table

    table.table(table.STAGE_HEADINGS, table.stage_rows(report))
    table.table(("", "value", "meaning"), table.facts(report))
    metric = report.stages[-1].metric
    print(f"files {files}, as reported: {files == report.stages[-1].nbytes}; "
          f"metric of the reloaded store as reported: {again == metric}", flush=True)  # fmt: skip
    before, after = report.stages[0].metric, again
    record(
        "model",
        name,
        smaller=report.stages[0].nbytes / files,
        worse=(before - after if higher else after - before) / abs(before),
        adds_up=files == report.stages[-1].nbytes,
        reloads=again == metric,
        page=page,
    )


def in_browser(report: Any, folder: Path) -> bool | None:
    """Whether a headless Chromium, if there is one, shows the page with its plots and no complaint."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None or find_spec("matplotlib") is None:
        return None
    report.save_html(folder / "report.html")
    done = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *(f"--user-data-dir={folder / 'profile'}", "--dump-dom"),
            (folder / "report.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    bars = done.stdout.count('id="patch_')
    return done.returncode == 0 and "CONSOLE" not in done.stderr and bars > FEWEST_BARS


# --- coders ----------------------------------------------------------------------------------


def lz78_bytes(raw: bytes) -> int:
    """Bytes of Ziv and Lempel's 1978 parse: a phrase's number in just enough bits, and a byte."""
    phrases: dict[tuple[int, int], int] = {}
    at = bits = 0
    for byte in raw:
        known = phrases.get((at, byte))
        if known is not None:
            at = known
            continue
        bits += len(phrases).bit_length() + 8
        phrases[at, byte] = len(phrases) + 1
        at = 0
    return -(-(bits + (len(phrases).bit_length() if at else 0)) // 8)


def coders() -> None:
    import zstandard

    try:
        from imagecodecs import lzw_encode
    except ImportError:
        lzw_encode = None
    corpus = open_corpus("full")
    weights = list(corpus.tensors("weights float32").values())
    pruned = [np.where(np.abs(w) > np.quantile(np.abs(w), 0.5), w, np.float32(0)) for w in weights]
    streams = {}
    for label, arrays in (("dense", weights), ("half pruned", pruned)):
        for config in (QuantizeConfig("nf4", scale_type="bf16"), QuantizeConfig("int8")):
            made = [gpucodec.quantize(array, config) for array in arrays]
            streams[f"{config.format} codes, {label}"] = np.concatenate(
                [one.codes.ravel() for one in made]
            )[:4_000_000]
    streams["bf16 weights"] = corpus.flat("weights bfloat16")[:2_000_000]
    print("| bytes | LZ78 | LZW | deflate -9 | zstd -3 | zstd -19 | LZ | planes and rANS |")
    print("|---|---|---|---|---|---|---|---|")
    for label, array in streams.items():
        raw = array.tobytes()
        sizes = [
            lz78_bytes(raw),
            len(lzw_encode(raw)) if lzw_encode else 0,
            len(zlib.compress(raw, 9)),
            len(zstandard.ZstdCompressor(3).compress(raw)),
            len(zstandard.ZstdCompressor(19).compress(raw)),
            gpucodec.encode(array, LZConfig("ratio")).nbytes,
            gpucodec.encode(array).nbytes,
        ]
        cells = (f"{size / len(raw):.4f}" if size else "" for size in sizes)
        print(f"| {label} | {' | '.join(cells)} |", flush=True)


def bits() -> None:
    """Pruned bf16 weights of the GPT, all matrices: derived and measured bits a value."""
    weights = {
        name: torch.from_numpy(array).bfloat16()
        for name, array in open_corpus("full").snapshot("weights").items()
    }
    plans = {
        "50 %": (Prune(0.5, "tensor", min_numel=0), None),
        "2:4": (Prune(n_m=(2, 4), min_numel=0), n_m_bits(2, 4)),
        "90 %": (Prune(0.9, "tensor", min_numel=0), None),
    }
    print("| pruned | effective | coding saves | derived | measured | off |")
    print("|---|---|---|---|---|---|")
    for label, (config, mask_bits) in plans.items():
        copies = {name: tensor.clone() for name, tensor in weights.items()}
        apply(copies, masks(copies, config))
        derived = saved = measured = total = 0.0
        for tensor in copies.values():
            words = tensor.view(torch.uint16).numpy()
            kept = words[words != 0]
            counts = np.bincount((kept >> 7 & 255).astype(int))
            p = counts[counts > 0] / max(1, kept.size)
            part = kept.size / words.size
            effective = effective_bits(16, part, mask_bits)
            save = part * (8 + float((p * np.log2(p)).sum()))
            derived += words.size * (effective - save)
            saved += words.size * save
            measured += 8 * gpucodec.encode(tensor).nbytes
            total += words.size
        print(
            f"| {label} | {(derived + saved) / total:.3f} | {saved / total:.3f} "
            f"| {derived / total:.3f} | {measured / total:.3f} | {measured / derived - 1:+.2%} |"
        )
        record("model", f"pruned {label}", off=measured / derived - 1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.model", description=__doc__)
    parser.add_argument("what", nargs="*", default=[*TASKS, "coders", "bits"])
    parser.add_argument("--prune", type=float, default=0.5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for what in options.what:
        if what in TASKS:
            compress(what, options.prune)
        else:
            {"coders": coders, "bits": bits}[what]()


if __name__ == "__main__":
    main()
