# SPDX-License-Identifier: Apache-2.0
"""What a stored graph may say, checked before torch reads it.

torch's loader trusts its input: guards are Python source that it runs, sizes are expressions that
sympy evaluates, targets are looked up by name anywhere below `torch`. Here a graph is arithmetic
of ATen or it is refused, and what torch would execute is taken out.
"""

from __future__ import annotations

import json
import re
from math import prod
from typing import TYPE_CHECKING, Any, Final

from ..errors import MALFORMED, CorruptionError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_TARGET: Final = re.compile(
    r"torch\.ops\.(?:aten|prims)\.\w+\.\w+"
    r"|_operator\.(?:getitem|eq|ne|le|ge|lt|gt|neg|pos|mul|add|sub|floordiv|mod|pow|truediv"
    r"|and_|or_|lshift|rshift)"
    r"|math\.trunc|torch\.sym_(?:not|int|float|ite|max|min|sqrt)"
)
_REACHES_OUT: Final = re.compile(r"\.(?:from_file|save|load|_?print|warn|format|import_)\w*\.")
_ARGUMENTS: Final = frozenset(
    [
        "as_bool",
        "as_bools",
        "as_complex",
        "as_device",
        "as_expr",
        "as_float",
        "as_float_lists",
        "as_floats",
        "as_int",
        "as_int_lists",
        "as_ints",
        "as_layout",
        "as_memory_format",
        "as_name",
        "as_nested_tensors",
        "as_none",
        "as_optional_tensor",
        "as_optional_tensors",
        "as_scalar_type",
        "as_string",
        "as_sym_bool",
        "as_sym_bools",
        "as_sym_float",
        "as_sym_floats",
        "as_sym_int",
        "as_sym_ints",
        "as_tensor",
        "as_tensors",
    ]
)
_NAME: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_WORD: Final = re.compile(r"[\w, ;>-]{0,256}", re.ASCII)  # modes, and equations of einsum
_EXPRESSION: Final = re.compile(
    r"(?:'?(?:[su]|zuf)\d+'?|\d+(?:\.\d+)?(?:e[+-]?\d+)?|[+\-*/%(),<>=&|~ ]|int_oo|oo|True|False"
    r"|Symbol|Integer|Rational|Float|Add|Mul|Pow|positive|negative|nonnegative|integer|real"
    r"|Max|Min|FloorDiv|ModularIndexing|Where|PythonMod|Mod|CleanDiv|CeilToInt|FloorToInt|CeilDiv"
    r"|LShift|RShift|PowByNatural|FloatPow|FloatTrueDiv|IntTrueDiv|TruncToFloat|TruncToInt"
    r"|RoundToInt|ToFloat|Identity|Eq|Ne|Le|Lt|Ge|Gt|And|Or|Not){0,1024}"
)
_CONTAINERS: Final = (
    *("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"),
    None,
)
_PATH: Final = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_TYPES: Final = {
    1: "uint8",
    2: "int8",
    3: "int16",
    4: "int32",
    5: "int64",
    6: "float16",
    7: "float32",
    8: "float64",
    10: "complex64",
    11: "complex128",
    12: "bool",
    13: "bfloat16",
    28: "uint16",
    29: "float8_e4m3fn",
    30: "float8_e5m2",
    34: "uint32",
    35: "uint64",
}
"""torch.export's numbers of data types."""


def clean(text: bytes) -> bytes:
    """A graph without what torch would run or nobody needs: guards, and where nodes came from."""
    content = json.loads(text)
    content["guards_code"] = []
    module = content["graph_module"]
    for graph in _graphs(module):
        for node in graph["nodes"]:
            node["metadata"] = {}
    module["metadata"] = {}
    module["module_call_graph"] = [one for one in module["module_call_graph"] if not one["fqn"]]
    return json.dumps(content, separators=(",", ":")).encode()


def check(text: bytes) -> None:
    """Refuse a graph that is more than arithmetic.

    Raises
    ------
    UnsupportedError
        It names an operation, a type or an expression that is not on the list.
    CorruptionError
        It is not as torch writes graphs.

    """
    try:
        content = json.loads(text)
        if content["guards_code"] or content["graph_module"].get("metadata"):
            raise UnsupportedError("the graph has guards: Python source, which is not run")
        for graph in _graphs(content["graph_module"]):
            for node in graph["nodes"]:
                _check_node(node)
        for entry in content["graph_module"]["module_call_graph"]:
            if entry["fqn"]:
                raise UnsupportedError(f"the graph keeps a call of {entry['fqn']!r}")
        _walk(content, "")
    except MALFORMED as error:
        if isinstance(error, (UnsupportedError, CorruptionError)):
            raise
        raise CorruptionError(f"the graph is not as torch.export writes it: {error!r}") from error


def _graphs(module: Mapping[str, Any]) -> Iterator[Any]:
    yield module["graph"]


def _check_node(node: Mapping[str, Any]) -> None:
    target = node["target"]
    if not _TARGET.fullmatch(target) or _REACHES_OUT.search(target):
        raise UnsupportedError(f"the graph calls {target!r}, which is not arithmetic of ATen")
    if node.get("metadata"):
        raise UnsupportedError(f"the graph says where {target} came from, which is not kept")


def _walk(value: Any, key: str) -> None:
    """Every name, expression and container, wherever it stands."""
    if isinstance(value, dict):
        for inner, one in value.items():
            if inner.startswith("as_") and inner not in _ARGUMENTS:
                raise UnsupportedError(f"the graph has an argument of kind {inner}")
            _walk(one, inner)
    elif isinstance(value, list):
        for one in value:
            _walk(one, key)
    elif isinstance(value, str):
        if key in {"in_spec", "out_spec"}:
            _check_containers(json.loads(value)[1])
        else:
            pattern = _PATTERNS.get(key, _ANY_TEXT)
            if not pattern.fullmatch(value):
                raise UnsupportedError(f"the graph has {value[:80]!r} as {key}")


_ANY_TEXT: Final = re.compile(r"[\w.+#:@ -]{0,256}", re.ASCII)  # names of parameters, versions
_PATTERNS: Final = {
    **dict.fromkeys(
        ("name", "as_name", "forward_arg_names"), re.compile(r"[A-Za-z_]\w*|", re.ASCII)
    ),
    "expr_str": _EXPRESSION,
    "as_string": _WORD,
    "target": _TARGET,
}


def _check_containers(spec: Mapping[str, Any]) -> None:
    context = spec["context"]
    names = context if isinstance(context, list) else json.loads(context or "null")
    is_plain = names is None or (
        isinstance(names, list) and all(isinstance(n, str) and _NAME.fullmatch(n) for n in names)
    )
    if spec["type"] not in _CONTAINERS or not is_plain:
        raise UnsupportedError(f"inputs or outputs are nested as {spec['type']}, {context!r}")
    for child in spec["children_spec"]:
        _check_containers(child)


def check_tensors(described: Mapping[str, Any]) -> None:
    """Refuse tensors that torch would unpickle.

    Raises
    ------
    UnsupportedError
        One is pickled, or of a type that has no plain bytes.
    CorruptionError
        One has no plain file name, or no description.

    """
    for name, one in described.items():
        if not isinstance(one, dict) or not _PATH.fullmatch(str(one.get("path_name"))):
            raise CorruptionError(f"{name} is stored at {one!r}")
        if one.get("use_pickle") is not False:
            raise UnsupportedError(f"{name} is pickled, which is not loaded")
        if not isinstance(one.get("tensor_meta"), dict):
            raise CorruptionError(f"{name} has no description")
        if one["tensor_meta"].get("dtype") not in _TYPES:
            raise UnsupportedError(f"{name} has the data type {one['tensor_meta'].get('dtype')}")


def tensor_of(torch: Any, raw: bytes, one: Mapping[str, Any]) -> Any:
    """A tensor of an archive, contiguous, from the bytes of its storage.

    Raises
    ------
    CorruptionError
        The bytes are fewer than its shape needs.

    """
    meta = one["tensor_meta"]
    shape, strides = ([int(size["as_int"]) for size in meta[key]] for key in ("sizes", "strides"))
    dtype = getattr(torch, _TYPES[meta["dtype"]])
    if not prod(shape):
        return torch.empty(shape, dtype=dtype)
    flat = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    try:
        strided = flat.view(dtype).as_strided(shape, strides, int(meta["storage_offset"]["as_int"]))
    except RuntimeError as error:
        raise CorruptionError(f"a tensor of {shape} does not fit {len(raw)} bytes") from error
    return strided.contiguous()
