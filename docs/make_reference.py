# SPDX-License-Identifier: Apache-2.0
"""Writes docs/reference.md from the docstrings: ``python docs/make_reference.py``.

griffe reads the sources without importing them. A test makes sure that the page is what this writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import griffe

DOCS = Path(__file__).parent
PAGE = DOCS / "reference.md"
MODULES = (
    "gpucodec",
    "gpucodec.zarr",
    "gpucodec.numcodecs",
    "gpucodec.quant.numcodecs",
    "gpucodec.checkpoint",
    "gpucodec.checkpoint.dcp",
    "gpucodec.activations",
    "gpucodec.fs",
    "gpucodec.model",
    "gpucodec.cuda",
)
HEAD = """# Reference

Written by `python docs/make_reference.py` from the docstrings: change those. Shapes and dtypes are
given as `uint8[n]`. Everything raises `TypeError` and `ValueError` for arguments that make no sense;
what is wrong with bytes is a `GpucodecError`.
"""


def public(module: griffe.Module) -> Iterator[tuple[str, griffe.Object]]:
    """What a module is for: the names of its `__all__`, else what has no underscore."""
    names = module.exports or [
        name
        for name, found in module.members.items()
        if not name.startswith("_") and not found.is_alias and (found.is_class or found.is_function)
    ]
    for name in map(str, names):
        found = module[name]
        yield name, found.final_target if found.is_alias else found


def signature(name: str, function: griffe.Function) -> str:
    """The call, without annotations, as one writes it."""
    parts, star = [], False
    for one in function.parameters:
        if one.name in {"self", "cls"}:
            continue
        kind = one.kind
        if kind is griffe.ParameterKind.keyword_only and not star:
            parts.append("*")
            star = True
        prefix = {
            griffe.ParameterKind.var_positional: "*",
            griffe.ParameterKind.var_keyword: "**",
        }.get(kind, "")
        star = star or kind is griffe.ParameterKind.var_positional
        default = "" if one.default is None or prefix else f"={one.default}"
        parts.append(f"{prefix}{one.name}{default}")
    return f"{name}({', '.join(parts)})"


def described(found: griffe.Object) -> Iterator[str]:
    """The docstring: its text, and its sections as lists."""
    if found.docstring is None:
        return
    for section in found.docstring.parse("numpy", warnings=False):
        kind, value = section.kind.value, section.value
        if kind == "text":
            yield re.sub(r"^(>>> .*(?:\n.+)*)", lambda m: indented(m[1]), value, flags=re.MULTILINE)
        elif kind in {"parameters", "attributes", "returns", "raises", "yields"}:
            yield f"*{kind.capitalize()}*"
            if kind == "returns" and not any(one.description for one in value):  # prose, by lines
                yield " ".join(str(one.annotation) for one in value)
                continue
            yield "\n".join(item(one, kind) for one in value)
        elif kind == "examples":
            yield "\n".join(indented(text) for _, text in value)
        elif kind == "admonition":
            yield f"*{section.title}*"
            yield value.description
        else:
            raise SystemExit(f"{found.path}: a section {kind!r}, which is not written yet")


def indented(code: str) -> str:
    """As Markdown shows code."""
    return "\n".join(f"    {line}" for line in code.splitlines())


def item(one: griffe.DocstringElement, kind: str) -> str:
    """A line of a section."""
    text = " ".join(one.description.split())
    if kind in {"parameters", "attributes"}:
        return f"* `{one.name}`: {text}"
    if kind == "raises":
        return f"* {one.annotation}: {text}"
    head = " ".join(str(part) for part in (getattr(one, "name", ""), one.annotation) if part)
    return f"* {head}: {text}" if text and head else f"* {text or head}"


def entry(name: str, found: griffe.Object) -> Iterator[str]:
    """Heading, signature, docstring; of a class the public methods as well."""
    yield f"### `{name}`"
    if found.is_function or (found.is_class and found.parameters):
        yield f"    {signature(name, found)}"
    yield from described(found)
    if not found.is_class:
        return
    members = {
        key: one
        for key, one in found.members.items()
        if not key.startswith("_") and not one.is_alias and one.docstring is not None
    }
    fields = [f"* `{key}`: {prose(one)}" for key, one in members.items() if not one.is_function]
    yield "\n".join(fields)
    for key, one in members.items():
        if one.is_function:
            yield f"**`{name}.{signature(key, one)}`**"
            yield from described(one)


def prose(found: griffe.Object) -> str:
    """The docstring of an attribute, on one line."""
    return " ".join(found.docstring.value.split()) if found.docstring else ""


def page() -> str:
    """The whole page."""
    loaded = griffe.load("gpucodec", search_paths=[str(DOCS.parent)], allow_inspection=False)
    blocks = [HEAD.strip()]
    for path in MODULES:
        if (
            path != "gpucodec"
            and path.removeprefix("gpucodec.").split(".")[0] not in loaded.members
        ):
            continue
        module = loaded if path == "gpucodec" else loaded[path.removeprefix("gpucodec.")]
        blocks.append(f"## {path}")
        blocks += described(module)
        for name, found in public(module):
            blocks += entry(name, found)
    text = "\n\n".join(block.rstrip() for block in blocks if block.strip()) + "\n"
    return text.replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
