# SPDX-License-Identifier: Apache-2.0
"""Compiles the kernels with NVRTC, which needs neither a GPU nor a driver.

python tests/cuda_nvrtc.py              registers, shared memory and spills of every kernel
python tests/cuda_nvrtc.py loops sm_90  instructions of the inner loops; needs nvdisasm
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import tempfile
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from gpucodec.kernels import cuda

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")
FUNCTION = re.compile(
    r"entry function '(\w+)'.*?"
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?"
    r"Used (\d+) registers(?:[^\n]*?, (\d+) bytes smem)?",
    re.DOTALL,
)


class Compiled(NamedTuple):
    """What ptxas says of a kernel."""

    stack: int
    spilled: int
    registers: int
    shared: int


@cache
def folders() -> list[Path]:
    """Where the wheels nvidia-cuda-nvrtc and nvidia-cuda-nvdisasm put their files."""
    spec = find_spec("nvidia")
    places = list(spec.submodule_search_locations or []) if spec else []
    return [folder for place in places for folder in sorted(Path(place).glob("c*"))]


def library() -> Path | None:
    """NVRTC of the wheel, if it is installed."""
    found = [file for folder in folders() for file in folder.glob("lib/libnvrtc.so.*")]
    return found[-1] if found else None


@cache
def compile_module(source: str, architecture: str) -> tuple[str, bytes]:
    """ptxas's log and the cubin; an AssertionError with the compiler's message."""
    nvrtc = ctypes.CDLL(str(library()))
    program = ctypes.c_void_p()
    status = nvrtc.nvrtcCreateProgram(
        ctypes.byref(program), source.encode(), b"gpucodec.cu", 0, None, None
    )
    assert status == 0, status
    options = [*cuda.OPTIONS, f"-arch={architecture}", "--ptxas-options=-v"]
    values = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))

    def text(size: str, get: str) -> bytes:
        n_bytes = ctypes.c_size_t()
        assert getattr(nvrtc, size)(program, ctypes.byref(n_bytes)) == 0
        data = ctypes.create_string_buffer(n_bytes.value)
        assert getattr(nvrtc, get)(program, data) == 0
        return data.raw

    status = nvrtc.nvrtcCompileProgram(program, len(options), values)
    log = text("nvrtcGetProgramLogSize", "nvrtcGetProgramLog").rstrip(b"\0").decode()
    assert status == 0, log
    cubin = text("nvrtcGetCUBINSize", "nvrtcGetCUBIN")
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return log, cubin


def functions(log: str) -> dict[str, Compiled]:
    """What the log says of each kernel."""
    found = {}
    for name, stack, stores, loads, registers, shared in FUNCTION.findall(log):
        found[name] = Compiled(
            int(stack), int(stores) + int(loads), int(registers), int(shared or 0)
        )
    return found


class Loop(NamedTuple):
    """An innermost loop of a kernel: SASS instructions of a warp for each turn."""

    instructions: int
    shared: int
    """Loads, stores and atomics of shared memory."""
    shuffles: int
    """Shuffles and votes."""
    memory: int
    """Loads and stores of global memory."""


def loops(cubin: bytes) -> dict[str, list[Loop]]:
    """Innermost loops of each kernel, as the disassembler shows them."""
    tool = next(file for folder in folders() for file in folder.glob("bin/nvdisasm"))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "-c", "-plr", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, list[Loop]] = {}
    for section in re.split(r"\.section\s+\.text\.", text)[1:]:
        name = section[: section.index(",")]
        lines: list[str] = []
        labels: dict[str, int] = {}
        spans = []
        for line in section.splitlines():
            label = re.match(r"\s*(\.L_x_\d+):", line)
            code = re.search(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*)", line)
            if label:
                labels[label[1]] = len(lines)
            elif code:
                lines.append(code[1])
                target = re.search(r"`\((\.L_x_\d+)\)", code[2])
                if code[1].startswith("BRA") and target and target[1] in labels:
                    spans.append((labels[target[1]], len(lines)))
        inner = [
            s for s in spans if not any(s != o and s[0] <= o[0] and o[1] <= s[1] for o in spans)
        ]
        found[name] = [
            Loop(
                stop - start,
                sum(op.startswith(("LDS", "STS", "ATOMS")) for op in lines[start:stop]),
                sum(op.startswith(("SHFL", "VOTE")) for op in lines[start:stop]),
                sum(op.startswith(("LDG", "STG", "LD.", "ST.")) for op in lines[start:stop]),
            )
            for start, stop in inner
        ]
    return found


def main() -> None:
    if sys.argv[1:2] == ["loops"]:
        for module in cuda.MODULES:
            _, cubin = compile_module(cuda.source(module), sys.argv[2])
            for name, inner in loops(cubin).items():
                print(name)
                for loop in inner:
                    print("   ", loop)
        return
    print("| kernel | shared | " + " | ".join(ARCHITECTURES) + " | spilled |")
    print("|" + "---|" * (len(ARCHITECTURES) + 3))
    rows: dict[str, list[Compiled]] = {}
    for module in cuda.MODULES:
        for name in cuda.kernels(module):
            rows[name] = []
        for architecture in ARCHITECTURES:
            log, _ = compile_module(cuda.source(module), architecture)
            for name, compiled in functions(log).items():
                rows[name].append(compiled)
    for name, found in rows.items():
        registers = " | ".join(str(compiled.registers) for compiled in found)
        spilled = sum(compiled.spilled + compiled.stack for compiled in found)
        print(
            f"| {name} | {max(compiled.shared for compiled in found)} | {registers} | {spilled} |"
        )


if __name__ == "__main__":
    main()
