# SPDX-License-Identifier: Apache-2.0
"""A Numba compiler for kernels that only other kernels call: LLVM sees them once, in the caller.

Numba optimises each function on its own, makes machine code of it, and then does both again in
each caller, where nearly everything is inlined. Without the first, a cold start takes two
thirds of the time. This rests on inner parts of Numba; `jit` does without it where they differ.
"""

from __future__ import annotations

from typing import Any

from numba import _dynfunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering


class _Library(JITCodeLibrary):  # type: ignore[misc]
    """LLVM code for callers to link, nothing to call."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)  # type: ignore[untyped-decorator]
class _Lowering(NativeLowering):  # type: ignore[misc]
    """Numba's own lowering, but into a `_Library`."""

    _name = "gpucodec_part_lowering"

    def run_pass(self, state: Any) -> bool:
        context = state.targetctx
        state.library = _Library(context.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        lowered = state.cr
        # What Numba knows the function by; its address is 0.
        handle = _dynfunc.make_function(
            lowered.fndesc.lookup_module(),
            lowered.fndesc.qualname,
            "",
            0,
            lowered.env,
            (state.library,),
        )
        context.insert_user_function(handle, lowered.fndesc, [state.library])
        state.cr = lowered._replace(cfunc=handle)
        return True


class PartCompiler(CompilerBase):  # type: ignore[misc]
    """Numba's default compiler with that lowering."""

    def define_pipelines(self) -> list[Any]:
        """As in the base class."""
        manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
        manager.passes = [
            (_Lowering if step is NativeLowering else step, text) for step, text in manager.passes
        ]
        manager.finalize()
        return [manager]
