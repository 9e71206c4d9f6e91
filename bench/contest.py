# SPDX-License-Identifier: Apache-2.0
"""Race the codecs over kinds of tensors, in this process, and write the figures as JSON.

``bench.lossless`` runs it once for each SIMD level.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from . import bounds, measure, peers
from .corpus import Corpus, open_corpus

OWN_AND_REFERENCE = (peers.OURS, peers.OURS_INTO, peers.ZIPNN)


def contest(
    corpus: Corpus, kind: str, *, rounds: int, elements: int | None, everyone: bool
) -> dict[str, Any]:
    """Bounds and results of one kind."""
    array = corpus.flat(kind)[:elements]
    blockwise, top = bounds.ratios(array)
    entered = [c for c in peers.codecs(array) if everyone or c.name in OWN_AND_REFERENCE]
    results = measure.race(array, entered, rounds=rounds)
    return {
        "dtype": array.dtype.name,
        "bytes": array.nbytes,
        "bound": blockwise,
        "bound_top_field": top,
        "results": {result.codec: result.json() for result in results},
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.contest", description=__doc__)
    parser.add_argument("--size", default="full", help="of the corpus")
    parser.add_argument("--kinds", nargs="*", help="all by default")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--elements", type=int, help="cut the tensors to so many elements")
    parser.add_argument("--everyone", action="store_true", help="not only ours and ZipNN")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    measure.pin()
    measure.keep_freed_memory()
    corpus = open_corpus(options.size)
    figures = {}
    for kind in options.kinds or corpus.kinds():
        figures[kind] = contest(
            corpus,
            kind,
            rounds=options.rounds,
            elements=options.elements,
            everyone=options.everyone,
        )
        best = figures[kind]["results"][peers.OURS]
        print(
            f"  {kind:28} {best['ratio']:7.3f} encode {best['encode_gbs']:6.2f} "
            f"decode {best['decode_gbs']:6.2f} GB/s",
            flush=True,
        )
    from gpucodec.kernels import simd

    options.json.write_text(json.dumps({"level": simd.LEVEL, "kinds": figures}))


if __name__ == "__main__":
    main()
