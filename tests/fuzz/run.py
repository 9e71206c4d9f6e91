# SPDX-License-Identifier: Apache-2.0
"""Runs one target under atheris: libFuzzer, guided by coverage.

    python tests/fuzz/run.py TARGET CORPUS [libFuzzer options]     fuzz; CORPUS is made if missing
    python tests/fuzz/run.py TARGET FILE                           repeat a finding

Coverage is of Python: of gpucodec, and of the document's decoder, whose branches are those of the
format. (Numba's machine code cannot be instrumented.) Targets of the CUDA kernels are C++ and have
their own; they need clang, and `environment()`.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import atheris

TESTS = Path(__file__).parents[1]
INSTRUMENTED = ["gpucodec", "spec_base", "spec_decoder", "spec_lz", "spec_quantized", "spec_files"]
PLAIN = ["gpucodec.kernels"]  # Numba reads their bytecode


def environment() -> dict[str, str]:
    """What a process with a native target needs: the sanitizers, with libFuzzer in them."""
    options = "detect_leaks=0:detect_stack_use_after_return=0:allocator_may_return_null=1"
    folder = Path(atheris.path())
    # A libFuzzer that is loaded first finds only mutators that are loaded then, too.
    preload = folder / "asan_with_fuzzer.so", *folder.glob("atheris/custom_mutator.*.so")
    return {**os.environ, "LD_PRELOAD": ":".join(map(str, preload)), "ASAN_OPTIONS": options}


def main() -> None:
    name, corpus, *options = sys.argv[1:]
    sys.path.insert(0, str(TESTS))
    with atheris.instrument_imports(include=INSTRUMENTED, exclude=PLAIN):
        from fuzz.targets import find

        target = find(name)

    def mutator(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if target.mutator is not None:
            if rng.random() < 0.2:
                data = atheris.Mutate(data, max_size)
            changed = target.mutator(bytes(data), rng)
            if changed is not None and len(changed) <= max_size:
                return changed
        return bytes(atheris.Mutate(data, max_size))

    place = Path(corpus)
    if not place.is_file():
        place.mkdir(parents=True, exist_ok=True)
        for i, seed in enumerate(target.seeds()):
            (place / f"seed-{i:04}").write_bytes(seed)
    atheris.Setup(
        [sys.argv[0], str(place), "-max_len=65536", *options],
        target.run,
        custom_mutator=mutator,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
