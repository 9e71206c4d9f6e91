# SPDX-License-Identifier: Apache-2.0
"""A Trainer of Lightning resumes from our checkpoints as if it had never stopped."""

from __future__ import annotations

import os
import warnings

import pytest
import torch
from checkpoint_cases import Model, same

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what others do when they are imported
    pl = pytest.importorskip("lightning.pytorch", reason="lightning is not installed")

from gpucodec import checkpoint
from gpucodec.checkpoint.lightning import LightningCheckpointIO

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice


class Module(pl.LightningModule):
    def __init__(self, width=48):
        super().__init__()
        self.save_hyperparameters()
        self.model = Model(width)

    def training_step(self, batch, _):
        tokens = batch[0].flatten()
        return torch.nn.functional.cross_entropy(self.model(tokens), (tokens * 7 + 3) % 100)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2)]

    def train_dataloader(self):
        rows = torch.arange(8 * 16).reshape(8, 16) * 31 % 100
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(rows), batch_size=4)


def fit(epochs, folder=None, ckpt_path=None, plugin=None):
    torch.manual_seed(0)
    module = Module()
    callbacks = []
    if folder is not None:
        callbacks = [
            pl.callbacks.ModelCheckpoint(dirpath=folder, filename="at-{step}", save_last=True)
        ]
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=callbacks,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[plugin or LightningCheckpointIO()],
    )
    trainer.fit(module, ckpt_path=ckpt_path)
    return trainer, module


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_a_trainer_resumes_where_it_stopped(place, tmp_path):
    folder = str(tmp_path) if place == "folder" else f"memory://lightning-{os.getpid()}"
    _, whole = fit(4)
    _, half = fit(2, folder)
    last = f"{folder}/last.ckpt"
    assert checkpoint.inspect(last).ratio > 1
    assert checkpoint.verify(last) > 0
    trainer, resumed = fit(4, ckpt_path=last)
    assert trainer.global_step == 8
    assert same(resumed.state_dict(), whole.state_dict())
    assert not same(half.state_dict(), whole.state_dict())
    state = checkpoint.load(None, last)
    assert state["hyper_parameters"] == {"width": 48}
    kinds = {tensor.kind for tensor in checkpoint.inspect(last).tensors}
    assert kinds >= {"param", "exp_avg", "exp_avg_sq", "buffer"}


def test_old_checkpoints_are_removed(tmp_path):
    fit(3, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", "at-step=6.ckpt"}


def test_removal_leaves_what_is_not_ours(tmp_path):
    plugin = LightningCheckpointIO()
    plugin.save_checkpoint({"w": torch.ones(3)}, tmp_path / "x")
    (tmp_path / "x" / "notes.txt").write_text("mine")
    plugin.remove_checkpoint(tmp_path / "x")
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["notes.txt"]
    plugin.remove_checkpoint(tmp_path / "never")
    with pytest.raises(FileNotFoundError):
        plugin.load_checkpoint(tmp_path / "x")
    with pytest.raises(TypeError, match="storage_options"):
        plugin.save_checkpoint({}, tmp_path / "y", storage_options={})


def test_a_policy_and_the_asynchronous_wrapper(tmp_path):
    from lightning.pytorch.plugins.io import AsyncCheckpointIO

    plugin = AsyncCheckpointIO(LightningCheckpointIO(policy="resume"))
    fit(1, tmp_path, plugin=plugin)
    plugin.teardown()
    rows = checkpoint.inspect(tmp_path / "last.ckpt").tensors
    large = {row.kind: row.codec["name"] for row in rows if row.decoded_bytes > 16_384}
    assert large["exp_avg"] == large["exp_avg_sq"] == "gpucodec.quantize"
    assert large["param"] == "gpucodec.tensor"
