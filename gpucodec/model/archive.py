# SPDX-License-Identifier: Apache-2.0
"""An exported program as JSON and tensors, and back.

`torch.export.save` writes a zip of JSON, raw tensors and a pickle of example inputs. We keep the
JSON as it is and the tensors as tensors, and no pickle; to load, the same zip is put together in
memory from checked JSON (`trust`), for `torch.export.load`.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING, Any, Final

from ..errors import CorruptionError, UnsupportedError
from . import trust
from .graph import quiet

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = "archive/"
GRAPH: Final = "models/model.json"
TENSORS: Final = {
    "weights": "data/weights/model_weights_config.json",
    "constants": "data/constants/model_constants_config.json",
}
INPUTS: Final = "data/sample_inputs/model.pt"
PLAIN: Final = ("archive_format", "archive_version", "byteorder", ".data/version")
MEMBERS: Final = (GRAPH, *TENSORS.values(), *PLAIN)
"""What is kept of an archive, besides tensors."""


def members(program: Any) -> dict[str, bytes]:
    """The archive's JSON, by name, without tensors."""
    import torch

    buffer = io.BytesIO()
    with quiet():
        torch.export.save(program, buffer)
    with zipfile.ZipFile(buffer) as archive:
        there = set(archive.namelist())
        kept = {name: archive.read(ROOT + name) for name in MEMBERS if ROOT + name in there}
    return {**kept, GRAPH: trust.clean(kept[GRAPH])}


def config(kept: Mapping[str, bytes], group: str) -> dict[str, Any]:
    """The archive's description of its "weights" or "constants", by name."""
    try:
        found = json.loads(kept[TENSORS[group]])["config"]
    except (KeyError, ValueError, TypeError) as error:
        raise CorruptionError(f"the archive's list of {group} does not read: {error!r}") from error
    if not isinstance(found, dict):
        raise CorruptionError(f"the archive's list of {group} is a {type(found).__name__}")
    return found


def program_of(kept: Mapping[str, bytes], tensors: Mapping[str, Mapping[str, Any]]) -> Any:
    """Inverse of `members`: an ExportedProgram.

    Parameters
    ----------
    kept
        The JSON; it is checked before torch reads it.
    tensors
        "weights" and "constants", by name, each as a contiguous torch tensor on the CPU.

    Raises
    ------
    CorruptionError
        JSON that is not as torch writes it, or tensors that do not fit it.
    UnsupportedError
        Operations that could do more than arithmetic.

    """
    import torch

    trust.check(kept[GRAPH])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in (GRAPH, *PLAIN):
            archive.writestr(ROOT + name, kept[name])
        for group, path in TENSORS.items():
            described = config(kept, group)
            trust.check_tensors(described)
            archive.writestr(ROOT + path, kept[path])
            written: set[str] = set()
            for name, one in described.items():
                if one["path_name"] in written:
                    continue
                written.add(one["path_name"])
                raw = _raw(tensors[group], name, one)
                archive.writestr(f"{ROOT}data/{group}/{one['path_name']}", raw)
        archive.writestr(ROOT + INPUTS, b"")  # without them, torch makes no guards either
    buffer.seek(0)
    with quiet():
        return torch.export.load(buffer)


def _raw(tensors: Mapping[str, Any], name: str, described: Mapping[str, Any]) -> Any:
    import torch

    if name not in tensors:
        raise CorruptionError(f"the graph needs {name}, which is not stored")
    tensor = tensors[name]
    sizes = [one.get("as_int") for one in described["tensor_meta"]["sizes"]]
    if sizes != list(tensor.shape):
        raise CorruptionError(f"{name} has shape {list(tensor.shape)}, the graph {sizes}")
    return memoryview(tensor.detach().contiguous().flatten().view(torch.uint8).numpy())


def read_pt2(path: Any) -> Any:
    """An archive of `torch.export.save`, without its pickle of example inputs.

    Raises
    ------
    UnsupportedError
        It is no such archive, or has tensors that torch pickled, or operations as in `program_of`.

    """
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            root = next((n.removesuffix(GRAPH) for n in names if n.endswith(GRAPH)), None)
            if root is None:
                raise UnsupportedError(f"{path} has no {GRAPH}: torch.export.save of 2.9 writes it")
            kept = {name: archive.read(root + name) for name in MEMBERS if root + name in names}
            tensors: dict[str, dict[str, Any]] = {}
            for group in TENSORS:
                described = config(kept, group)
                trust.check_tensors(described)
                tensors[group] = {
                    name: trust.tensor_of(
                        torch, archive.read(f"{root}data/{group}/{one['path_name']}"), one
                    )
                    for name, one in described.items()
                }
    except (zipfile.BadZipFile, KeyError) as error:
        raise UnsupportedError(f"{path} is no archive of torch.export: {error}") from error
    return program_of({**kept, GRAPH: trust.clean(kept[GRAPH])}, tensors)
