# SPDX-License-Identifier: Apache-2.0
"""The compressed model for other runtimes: ONNX (onnxruntime) and TensorFlow Lite (LiteRT).

Both get the weights as decoded. With ``int8=True`` the runtime's own quantizer makes integer
weights of them; its outputs are compared like all others.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..missing import needs
from .graph import quiet
from .quality import agreement, outputs
from .report import ExportReport
from .store import runnable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CALLS: Final = 20


def export_onnx(
    program: Any, inputs: Sequence[Any], path: Any, *, int8: bool = False
) -> ExportReport:
    """Write an ``.onnx`` file, slimmed by OnnxSlim, and run it.

    Parameters
    ----------
    program
        From `gpucodec.model.load_program`.
    inputs
        Positional arguments of a call, tensors: the file is for their shapes.
    path
        Where it goes; what is there is replaced.
    int8
        Weights of matrix products in int8, activations rounded when it runs.

    Raises
    ------
    UnsupportedError
        A package of ``gpucodec[onnx]`` is not installed.

    """
    import torch

    path = Path(path)
    with needs("onnxruntime", "onnx"):
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - torch exports by it
        import onnxslim
    with quiet():
        made = torch.onnx.export(
            runnable(program), tuple(inputs), dynamo=True, verbose=False, optimize=True
        )
        slim = onnxslim.slim(made.model_proto)
    onnx.save(slim, path)
    if int8:
        from onnxruntime.quantization import quantize_dynamic

        with quiet():
            quantize_dynamic(path, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    feeds = {
        node.name: tensor.numpy() for node, tensor in zip(session.get_inputs(), inputs, strict=True)
    }
    return _measure(
        "ONNX int8" if int8 else "ONNX", path, program, inputs, lambda: session.run(None, feeds)[0]
    )


def export_tflite(
    program: Any, inputs: Sequence[Any], path: Any, *, int8: bool = False
) -> ExportReport:
    """Write a ``.tflite`` file by litert-torch, and run it by ai-edge-litert; as `export_onnx`."""
    path = Path(path)
    with needs("litert-torch", "tflite"):
        import litert_torch
        from ai_edge_litert.interpreter import Interpreter
    with quiet():
        litert_torch.convert(_as_module(program), tuple(inputs)).export(str(path))
    if int8:
        with needs("ai-edge-quantizer", "tflite"):
            from ai_edge_quantizer import quantizer, recipe
        made = quantizer.Quantizer(str(path), recipe.dynamic_wi8_afp32()).quantize()
        path.write_bytes(made.quantized_model)
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    places = [one["index"] for one in interpreter.get_input_details()]
    result = interpreter.get_output_details()[0]["index"]

    def run() -> Any:
        for place, tensor in zip(places, inputs, strict=True):
            interpreter.set_tensor(place, tensor.numpy())
        interpreter.invoke()
        return interpreter.get_tensor(result)

    return _measure("TFLite int8" if int8 else "TFLite", path, program, inputs, run)


def _as_module(program: Any) -> Any:
    """A plain module: litert-torch calls ``eval()`` of submodules, which graphs of torch refuse."""
    import torch

    graph = runnable(program)

    class Module(torch.nn.Module):  # type: ignore[misc] # torch has no types here
        def forward(self, *inputs: Any) -> Any:
            return graph(*inputs)

    return Module().eval()


def _measure(
    label: str, path: Path, program: Any, inputs: Sequence[Any], run: Callable[[], Any]
) -> ExportReport:
    import torch

    reference = outputs(runnable(program), [inputs])
    found = torch.from_numpy(run().copy()).float()
    taken = []
    for _ in range(CALLS):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return ExportReport(
        label,
        str(path),
        path.stat().st_size,
        statistics.median(taken),
        agreement(reference, [found]),
    )
