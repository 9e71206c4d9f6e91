# SPDX-License-Identifier: Apache-2.0
"""Graphs get smaller and compute the same; what a stored graph says cannot run code."""

from __future__ import annotations

import copy
import json
import zipfile

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from gpucodec import CorruptionError, UnsupportedError  # noqa: E402
from gpucodec.model import archive, trust  # noqa: E402
from gpucodec.model.graph import export, optimize, quiet  # noqa: E402
from gpucodec.model.store import runnable  # noqa: E402


class Wasteful(nn.Module):
    """Something for every pass."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
        self.b.load_state_dict(self.a.state_dict())
        self.norm = nn.BatchNorm1d(16)
        self.unused = nn.Linear(3, 3)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("extra", torch.arange(4.0), persistent=False)

    def forward(self, x):
        folded = (torch.arange(16) * 2 + 1).sum()
        large = torch.arange(1000).unsqueeze(1).expand(1000, 4).sum() + self.extra.sum()
        y = self.a(x.sigmoid()) + self.b(x.sigmoid())  # common
        y = self.drop(y).clone().view(y.shape).to(torch.float32)  # nothing
        _dead = (y * 3).exp()
        return self.norm(y) * folded + large * torch.tensor([2.0])


@pytest.fixture(scope="module")
def wasteful():
    torch.manual_seed(0)
    model = Wasteful().eval()
    x = torch.randn(5, 16)
    program = export(model, (x,), ({0: torch.export.Dim.AUTO},))
    return model, x, program


def copied(program):
    with quiet():
        return copy.deepcopy(program)


def test_every_pass_finds_its_work_and_outputs_stay(wasteful):
    model, x, program = wasteful
    program = copied(program)
    done = optimize(program)
    assert torch.equal(runnable(program)(x), model(x))
    assert torch.equal(runnable(program)(x[:2]), model(x[:2]))
    assert done.nodes_after < done.nodes_before
    assert done.folded >= 3
    assert done.no_ops >= 2
    assert done.common >= 1
    assert {"unused.weight", "norm.num_batches_tracked"} <= set(done.unused)
    assert ("b.weight", "a.weight") in done.duplicates
    assert program.state_dict["a.weight"] is program.state_dict["b.weight"]


def test_folding_is_bounded_by_what_it_makes(wasteful):
    _, _, program = wasteful
    made = {}
    for most in (0, 1024):
        other = copied(program)
        optimize(other, most)
        made[most] = {n: t.nbytes for n, t in other.constants.items() if n.startswith("folded")}
    assert not made[0]
    assert made[1024]
    assert max(made[1024].values()) <= 1024


def kept_of(program):
    return archive.members(program), {"weights": program.state_dict, "constants": program.constants}


def test_json_and_tensors_are_the_program(wasteful):
    model, x, program = wasteful
    kept, tensors = kept_of(program)
    again = archive.program_of(kept, tensors)
    assert torch.equal(runnable(again)(x), model(x))
    assert all(b"\x80\x02" not in raw[:2] for raw in kept.values())
    text = kept[archive.GRAPH].decode()
    assert "/tests/" not in text  # no paths of whoever exported it
    assert not json.loads(text)["guards_code"]


def test_archives_of_torch_are_read_without_their_pickle(wasteful, tmp_path):
    model, x, _ = wasteful
    path = tmp_path / "model.pt2"
    with quiet():
        torch.export.save(torch.export.export(model, (x,)), path)
    again = archive.read_pt2(path)
    assert torch.equal(runnable(again)(x), model(x))
    cut = tmp_path / "cut.pt2"
    cut.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UnsupportedError, match="no archive"):
        archive.read_pt2(cut)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("a", "b")
    with pytest.raises(UnsupportedError, match=r"has no models/model\.json"):
        archive.read_pt2(tmp_path / "other.zip")


def nodes(content):
    return content["graph_module"]["graph"]["nodes"]


def _target(name):
    return lambda content: nodes(content)[1].update(target=name)


def _guards(content):
    content["guards_code"] = ["__import__('os').system('true')"]


def _expression(text):
    def change(content):
        content["graph_module"]["graph"]["sym_int_values"]["x"] = {
            "as_expr": {"expr_str": text, "hint": {"as_int": 5}}
        }

    return change


def _name(content):
    nodes(content)[1]["name"] = "x):\n    import os #"


def _argument(content):
    nodes(content)[1]["inputs"][0]["arg"] = {"as_custom_obj": {"name": "x", "class_fqn": "y"}}


def _string(content):
    nodes(content)[1]["inputs"][0]["arg"] = {"as_string": "/etc/passwd"}


def _container(content):
    signature = content["graph_module"]["module_call_graph"][0]["signature"]
    spec = {"type": "os.PathLike", "context": "null", "children_spec": []}
    signature["in_spec"] = json.dumps([1, spec])


def _context(content):
    signature = content["graph_module"]["module_call_graph"][0]["signature"]
    context = json.dumps([{"__enum__": True, "fqn": "os:sep", "name": "x"}])
    spec = {"type": "builtins.dict", "context": context, "children_spec": []}
    signature["in_spec"] = json.dumps([1, spec])


HOSTILE = {
    "guards": _guards,
    "system": _target("torch.os.system"),
    "load": _target("torch.load"),
    "file": _target("torch.ops.aten.from_file.default"),
    "custom": _target("torch.ops.mylib.run.default"),
    "attribute": _target("_operator.attrgetter"),
    "call": _expression("__import__('os').system('true')"),
    "dunder": _expression("().__class__.__bases__"),
    "lambda": _expression("(lambda: 0)()"),
    "name": _name,
    "argument": _argument,
    "string": _string,
    "container": _container,
    "context": _context,
    "metadata": lambda content: nodes(content)[0]["metadata"].update(stack_trace="x"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_graphs_that_are_more_than_arithmetic_are_refused(kind, wasteful):
    kept, tensors = kept_of(wasteful[2])
    content = json.loads(kept[archive.GRAPH])
    trust.check(kept[archive.GRAPH])
    HOSTILE[kind](content)
    with pytest.raises(UnsupportedError):
        archive.program_of({**kept, archive.GRAPH: json.dumps(content).encode()}, tensors)


def test_pickled_and_lying_tensors_are_refused(wasteful):
    kept, tensors = kept_of(wasteful[2])
    path = archive.TENSORS["weights"]
    for change, error in (
        ({"use_pickle": True}, UnsupportedError),
        ({"path_name": "../weight"}, CorruptionError),
        ({"tensor_meta": None}, CorruptionError),
    ):
        content = json.loads(kept[path])
        content["config"]["a.weight"].update(change)
        with pytest.raises(error):
            archive.program_of({**kept, path: json.dumps(content).encode()}, tensors)
    content = json.loads(kept[path])
    content["config"]["a.weight"]["tensor_meta"]["sizes"][0]["as_int"] = 17
    with pytest.raises(CorruptionError, match="has shape"):
        archive.program_of({**kept, path: json.dumps(content).encode()}, tensors)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b'{"guards_code":[]}', b"\xff"])
def test_what_is_no_graph_is_an_error(text):
    with pytest.raises((CorruptionError, UnsupportedError)):
        trust.check(text)
