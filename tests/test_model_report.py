# SPDX-License-Identifier: Apache-2.0
"""The report's figures, its page in a real browser, the documented example, and the command line."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cli_cases import fails, run  # noqa: E402
from torch import nn  # noqa: E402

from gpucodec.model import Prices, cost, load_model  # noqa: E402
from gpucodec.model.cost import add_costs  # noqa: E402
from gpucodec.model.graph import quiet  # noqa: E402
from gpucodec.model.quality import agreement, recovery  # noqa: E402

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64)).eval()
    x = torch.randn(24, 64)
    with quiet():
        torch.export.save(torch.export.export(model, (x[:8],)), folder / "model.pt2")
    np.savez(folder / "calls.npz", x.numpy())
    return folder, model, x


def test_the_worked_example_holds():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/model.md").read_text(), re.DOTALL)
    [example] = [block for block in blocks if "lz77" in block]
    assert example.count("assert") == 9
    exec(example, {})


def test_the_command_line_compresses_and_looks(exported, tmp_path):
    pytest.importorskip("matplotlib")
    folder, model, x = exported
    result = run(
        *("model", "compress", folder / "model.pt2", tmp_path / "store"),
        *("--inputs", folder / "calls.npz", "--prune", "0.5", "--quantize", "int8"),
        *("--json", tmp_path / "report.json", "--html", tmp_path / "report.html"),
        *("--checkpoints", 100),
    )
    assert "alpha" in result.stdout
    content = json.loads((tmp_path / "report.json").read_text())
    sizes = [path.stat().st_size for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert content["stages"][-1]["nbytes"] == sum(sizes)
    assert len(content["costs"]) == 3
    assert torch.allclose(load_model(tmp_path / "store")(x[:8]), model(x[:8]), atol=0.5)
    shown = run("model", "inspect", tmp_path / "store").stdout
    assert "int8" in shown
    assert "aten.linear.default 2" in shown
    page = (tmp_path / "report.html").read_text()
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page.replace("xlink:href", "href"))
    assert "<script" not in page


def test_exact_without_lossy_options(exported, tmp_path):
    folder, model, x = exported
    arguments = ("model", "compress", folder / "model.pt2", tmp_path / "store")
    run(*arguments, "--inputs", folder / "calls.npz")
    assert torch.equal(load_model(tmp_path / "store")(x[:8]), model(x[:8]))


def test_what_cannot_be_done_is_one_line(exported, tmp_path):
    folder, _, _ = exported
    arguments = ("model", "compress", folder / "model.pt2", tmp_path / "store", "--inputs")
    assert "--n-m is like 2:4" in fails(*arguments, folder / "calls.npz", "--n-m", "2of4")
    assert "amount" in fails(*arguments, folder / "calls.npz", "--prune", "2")
    np.savez(tmp_path / "two.npz", np.zeros(3), np.zeros(3))
    assert "2 arrays" in fails(*arguments, tmp_path / "two.npz")
    (tmp_path / "no.pt2").write_bytes(b"no")
    wrong = ("model", "compress", tmp_path / "no.pt2", tmp_path / "store", "--inputs")
    assert "no archive" in fails(*wrong, folder / "calls.npz")


def test_the_page_renders_in_a_browser_with_data_in_its_plots(exported, tmp_path):
    pytest.importorskip("matplotlib")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium on this machine")
    from gpucodec.model import Prune, Quantize, compress_model

    _, model, x = exported
    report = compress_model(
        model, (x,), tmp_path / "store", prune=Prune(0.5), quantize=Quantize(activations="int8")
    )
    add_costs(report, 10)
    report.save_html(tmp_path / "report.html")
    base = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"]
    url = (tmp_path / "report.html").as_uri()

    def look(*options):
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        done = subprocess.run(
            [*base, profile, *options, url], capture_output=True, text=True, check=True, timeout=120
        )
        assert not re.findall(r"CONSOLE.*", done.stderr)
        return done.stdout

    dom = look("--dump-dom")
    assert dom.count("<svg") == 4
    bars = re.findall(r'id="patch_\d+"', dom)
    assert len(bars) > 30
    assert f"{report.stages[-1].nbytes:,}" in dom
    picture = tmp_path / "page.png"
    look(f"--screenshot={picture}", "--window-size=1200,1600")
    from matplotlib.image import imread

    pixels = imread(picture)[..., :3]
    blue = np.abs(pixels - np.array([0x4C, 0x78, 0xA8]) / 255).max(-1) < 0.02
    assert blue.sum() > 5000  # the bars of the values
    assert (pixels.min(-1) > 0.98).mean() < 0.99  # and text


def test_recovery_and_agreement_by_hand():
    found = recovery(np.array([1.0, -2.0, 0.0]), np.array([1.0, -1.5, 0.1]))
    assert found.max_abs == 0.5
    assert found.max_rel == 0.25
    assert found.snr_db == pytest.approx(10 * np.log10(5 / 0.26))
    assert found.cosine == pytest.approx(4 / np.sqrt(5 * 3.26))
    exact = recovery(np.ones(3), np.ones(3))
    assert (exact.snr_db, exact.cosine) == (np.inf, 1.0)
    a = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    b = torch.tensor([[0.0, 2.0], [0.0, 1.0]])
    p, q = a.softmax(-1), b.softmax(-1)
    assert agreement([a], [b]).kl == pytest.approx(float((p * (p / q).log()).sum(-1).mean()))
    assert agreement([a], [b]).top1 == 0.5


def test_costs_by_hand():
    prices = Prices(storage_gb_month=0.02, egress_gb=0.1, bandwidth=1e9, months=10, reads=2)
    made = cost("x", 5 * 10**9, 4, prices, encode_seconds=1, decode_seconds=2)
    assert made.nbytes == 20 * 10**9
    assert made.storage == pytest.approx(4)
    assert made.transfer == pytest.approx(4)
    assert made.total == pytest.approx(8)
    assert made.write_seconds == 4 * 6
    assert made.read_seconds == 4 * 2 * 7
    with pytest.raises(ValueError, match="bandwidth"):
        Prices(bandwidth=0)
