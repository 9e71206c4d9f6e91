# SPDX-License-Identifier: Apache-2.0
"""Programs that take fsspec URLs take ours, unchanged."""

from __future__ import annotations

import io

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from gpucodec_s3 import BUCKET
from helpers import sample

VALUES = sample("float32", 300_000, "values").reshape(300, 1000)


@pytest.fixture(params=["memory", "file", "s3"])
def url(request, tmp_path, monkeypatch):
    """A folder, as a URL without gpucodec; and where its bytes are counted."""
    if request.param == "memory":
        yield "memory://programs"
        MemoryFileSystem.store.clear()
    elif request.param == "file":
        yield f"file://{tmp_path}"
    else:
        monkeypatch.setitem(fsspec.config.conf, "s3", request.getfixturevalue("s3_options"))
        yield f"s3://{BUCKET}/programs"
        fs = fsspec.filesystem("s3")
        if fs.exists(f"{BUCKET}/programs"):  # not after a test that was skipped
            fs.rm(f"{BUCKET}/programs", recursive=True)


def stored(url: str) -> int:
    fs, path = fsspec.url_to_fs(url)
    return fs.du(path)


def test_numpy(url):
    with fsspec.open(f"gpucodec::{url}/a.npy", "wb") as file:
        np.save(file, VALUES)
    with fsspec.open(f"gpucodec::{url}/a.npy", "rb") as file:
        assert (np.load(file) == VALUES).all()
    with fsspec.open(f"gpucodec::{url}/a.npz", "wb") as file:
        np.savez(file, a=VALUES, b=VALUES[0])
    with fsspec.open(f"gpucodec::{url}/a.npz", "rb") as file:
        assert (np.load(file)["b"] == VALUES[0]).all()
    assert stored(url) < 0.9 * 2 * VALUES.nbytes


def test_safetensors(url):
    safetensors = pytest.importorskip("safetensors.numpy")
    tensors = {"a": VALUES, "b": VALUES[0].astype(np.float16)}
    fs, path = fsspec.url_to_fs(f"gpucodec::{url}/m.safetensors")
    fs.pipe(path, safetensors.save(tensors))
    found = safetensors.load(fs.cat(path))
    assert all((found[name] == tensor).all() for name, tensor in tensors.items())


def test_torch_save(url):
    torch = pytest.importorskip("torch")
    state = {
        "weight": torch.from_numpy(VALUES).bfloat16(),
        "step": 7,
        "ids": torch.arange(100_000),
    }
    with fsspec.open(f"gpucodec::{url}/m.pt", "wb") as file:
        torch.save(state, file)
    with fsspec.open(f"gpucodec::{url}/m.pt", "rb") as file:
        found = torch.load(file, weights_only=True)
    assert found["step"] == 7
    assert (found["weight"] == state["weight"]).all()
    assert (found["ids"] == state["ids"]).all()
    assert stored(f"{url}/m.pt") < 0.65 * (600_000 + 800_000)


@pytest.mark.filterwarnings("ignore")  # of torch, about the missing process group
def test_torch_distributed_checkpoint(url):
    torch = pytest.importorskip("torch")
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter

    if url.startswith("file"):
        fsspec.url_to_fs(url)[0].makedirs(f"{url}/dcp", exist_ok=True)
    state = {"model": {"weight": torch.from_numpy(VALUES), "bias": torch.ones(1000)}}
    target = f"gpucodec::{url}/dcp"
    checkpoint.save(state, storage_writer=FsspecWriter(target), no_dist=True)
    found = {"model": {"weight": torch.zeros(300, 1000), "bias": torch.zeros(1000)}}
    checkpoint.load(found, storage_reader=FsspecReader(target), no_dist=True)
    assert (found["model"]["weight"] == state["model"]["weight"]).all()
    assert (found["model"]["bias"] == 1).all()
    assert stored(f"{url}/dcp") < 0.9 * VALUES.nbytes


def test_pandas(url):
    pandas = pytest.importorskip("pandas", reason="needs pandas: pip install 'gpucodec[test-fs]'")
    pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'gpucodec[test-fs]'")
    table = pandas.DataFrame({"x": VALUES[0], "n": np.arange(1000), "s": ["a", "b"] * 500})
    for ending, options in ((".parquet", {"compression": None}), (".csv", {"index": False})):
        name = f"gpucodec::{url}/table{ending}"
        getattr(table, f"to_{ending[1:]}")(name, **options)
        found = getattr(pandas, f"read_{ending[1:]}")(name)
        assert (found["n"] == table["n"]).all()
        assert (found["s"] == table["s"]).all()
    columns = pandas.read_parquet(f"gpucodec::{url}/table.parquet", columns=["x"])
    assert (columns["x"] == table["x"]).all()
    whole = io.BytesIO()
    table.to_csv(whole, index=False)
    assert stored(f"{url}/table.csv") < 0.6 * whole.tell()


@pytest.mark.filterwarnings("ignore")  # of Lightning: few workers, no validation
def test_lightning(url, tmp_path):
    """Saves checkpoints while training, keeps the best, and resumes from one."""
    torch = pytest.importorskip("torch")
    lightning = pytest.importorskip(
        "lightning", reason="needs Lightning: pip install 'gpucodec[test-fs]'"
    )

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(256, 256)

        def training_step(self, batch, _number):
            loss = (self.layer(batch) - batch).square().mean()
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters())

    def trainer(steps):
        saving = lightning.pytorch.callbacks.ModelCheckpoint(
            dirpath=f"gpucodec::{url}",
            monitor="loss",
            every_n_train_steps=2,
            save_top_k=1,
            save_last=True,
        )
        return lightning.Trainer(
            max_steps=steps,
            callbacks=[saving],
            default_root_dir=str(tmp_path),
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    torch.manual_seed(0)
    batches = torch.utils.data.DataLoader(torch.randn(64, 256), batch_size=8)
    model, first = Model(), trainer(4)
    first.fit(model, batches)
    last = first.checkpoint_callback.last_model_path
    assert last.startswith("gpucodec::")
    fs, path = fsspec.url_to_fs(last)
    assert fs.info(path)["physical_size"] < 0.95 * fs.info(path)["size"]
    with fsspec.open(last, "rb") as file:
        state = torch.load(file, weights_only=True)["state_dict"]
    assert torch.equal(state["layer.weight"], model.layer.weight.detach())

    model, second = Model(), trainer(6)
    second.fit(model, batches, ckpt_path=last)
    assert second.global_step == 6
    names = [name.rpartition("/")[2] for name in fs.ls(fs._parent(path), detail=False)]
    assert "last.ckpt" in names
