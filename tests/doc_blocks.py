# SPDX-License-Identifier: Apache-2.0
"""What the code blocks of the documents take for granted, and those that cannot run here."""

from __future__ import annotations

MODEL = """
import numpy as np, torch
from torch import nn
from torch.utils.data import DataLoader

torch.manual_seed(0)

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.model = nn.Embedding(128, 16), nn.Module()
        self.model.layers = nn.ModuleList([nn.Module() for _ in range(4)])
        for layer in self.model.layers:
            layer.mlp = nn.Linear(16, 16)

    def forward(self, tokens):
        x = self.embed(tokens)
        for layer in self.model.layers:
            x = x + layer.mlp(x).relu()
        return x.square().mean()

model = Model()
optimizer = torch.optim.AdamW(model.parameters())
batches = [torch.randint(128, (4, 8)) for _ in range(2)]
batch = batches[0]
model(batch).backward()
optimizer.step()
"""

PACKAGES = {
    "docs/checkpoints.md": ("lightning",),
    "docs/filesystem.md": ("pandas", "pyarrow", "distributed"),
    "docs/model.md": ("matplotlib", "onnxruntime"),
    "docs/quantize.md": ("torchao", "bitsandbytes", "gguf"),
}
"""What the blocks of a page import, of that which `gpucodec[test,torch]` does not bring."""

BEFORE = {
    ("README.md", "stream_activations"): MODEL,
    ("README.md", "gpucodec compress"): """
from safetensors.numpy import save_file
save_file({"w": np.linspace(0, 1, 4000, dtype=np.float32)}, "model.safetensors")
""",
    ("docs/activations.md", "stream = stream_activations"): MODEL,
    ("docs/checkpoints.md", "checkpoint.save(\n"): MODEL + 'url = "run"',
    ("docs/checkpoints.md", "series.resume()"): 'url, step = "series", 3',
    ("docs/checkpoints.md", "Tuner("): 'url = "tuned"',
    ("docs/checkpoints.md", "dcp.save("): 'url, state_dict = "dcp", {"w": torch.ones(30, 4)}',
    ("docs/checkpoints.md", "checkpoint import"): """
from safetensors.numpy import save_file
save_file({"w": np.linspace(0, 1, 4000, dtype=np.float32)}, "model.safetensors")
""",
    ("docs/filesystem.md", "read_parquet"): MODEL
    + """
import fsspec, pandas as pd
with fsspec.open("gpucodec::s3://bucket/table.parquet", "wb") as file:
    pd.DataFrame({"a": [1, 2]}).to_parquet(file)
""",
    ("docs/filesystem.md", "url_to_fs"): """
import os
os.makedirs("/data")
with fsspec.open("gpucodec::file:///data/model.safetensors", "wb") as file:
    file.write(bytes(3_000_000))
""",
    ("docs/lz.md", "LZConfig()"): "import numpy as np; tokens = np.arange(3000) % 100",
    ("docs/model.md", "compress_model("): """
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 4)).eval()
example_inputs = (torch.randn(8, 64),)
accuracy = lambda m: float((m(*example_inputs).argmax(1) == 0).float().mean())
train_some_more = lambda m: None
""",
    ("docs/model.md", "model compress"): """
import numpy as np
torch.export.save(torch.export.export(model, example_inputs), "model.pt2")
np.savez("calls.npz", example_inputs[0].numpy())
""",
    ("docs/quantize.md", "to_torchao"): """
import numpy as np
weights = np.random.default_rng(0).normal(size=(8, 256)).astype(np.float32)
""",
}
"""Code that runs before the block of a page that has these words, in its namespace."""

ELSEWHERE = ("/scratch", "/data")
"""Folders of the examples that lie in the temporary one."""

NOT_RUN = {
    ("docs/zarr.md", "# a CuPy array"): "needs a GPU; tests/test_zarr_gpu.py does the same",
    ("docs/zarr.md", "gds_store"): "needs a GPU; tests/test_zarr_direct.py does the same",
    ("docs/checkpoints.md", "Lightning"): "tests/test_checkpoint_lightning.py has a trainer",
    (
        "docs/gpu.md",
        "cupy.asarray",
    ): "needs a GPU; tests/test_gpu.py and test_cuda_api.py do the same",
    ("docs/gpu.md", "low_occupancy"): "needs a GPU; tests/test_zarr_gpu.py does the same",
}
"""Blocks that this machine cannot run, and why."""

NOT_RUN_COMMANDS = {
    "pip install": "changes the environment; tests/test_install.py installs, with -m long",
    "python3 -m venv": "the same",
    "make check": "runs this test",
    "make fuzz": "takes hours; tests/test_fuzz.py runs its targets",
    "pytest": "runs this test",
    "HYPOTHESIS_PROFILE=long pytest": "takes hours",
    "dask ": "a cluster; tests/test_scale.py has one",
    "gpucodec recompress": "the same",
    "gpucodec mount": "blocks; tests/test_fs_mount.py mounts",
    "python tests/torch_dcp_suite.py": "needs a checkout of PyTorch",
    "python tests/make_golden.py": "writes into the checkout; tests/test_compatibility.py reads",
    "python -m bench": "takes minutes; tests/test_bench.py runs parts of it on little",
}
"""Commands that begin so are not run, and why."""

REPLACED = {
    "URL": "s3://bucket/run",
    "STORE": "store",
    "FOLDER": "corpus",
    "1000": "3",  # made frames
}
"""Words of commands that stand for the reader's own."""
