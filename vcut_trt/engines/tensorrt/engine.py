"""An engine on a TensorRT plan, of either flavour.

Each launch has an execution context of its own, which is given all its addresses once: tensors, and the workspace's
scratch. A step then is one enqueue (or one replay), and no address ever moves under a CUDA graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from vcut_trt.engines.base import BaseEngine
from vcut_trt.engines.launch import Launch
from vcut_trt.engines.tensorrt.runtime import PlanRuntime
from vcut_trt.errors import EngineError
from vcut_trt.spec.interface import GraphSpec, TensorSpec

DTYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}


class TensorRTEngine(BaseEngine):
    """One deserialized plan. See `base.Engine`.

    Args:
        plan: The file, checked by `plan_choice.check_plans`.
        spec: The graph's inputs and outputs; the plan must have exactly these.
        runtime: What deserializes it, and the workspace that it runs in.

    Raises:
        EngineError: TensorRT does not take the plan, or it is the plan of another graph.
        DeviceMemoryError: The GPU has no room for it.
    """

    def __init__(self, plan: Path, spec: GraphSpec, runtime: PlanRuntime) -> None:
        super().__init__(spec, runtime.workspace)
        self._name = plan.stem
        self._runtime = runtime
        self._engine: Any = runtime.deserialize(plan)
        self._check_interface(plan)
        self._scratch_bytes = int(self._engine.device_memory_size_v2)
        self.workspace.reserve(self, self._scratch_bytes)

    def _bind(self, tensors: dict[str, Tensor]) -> Launch:
        runtime, name = self._runtime, self._name
        scratch = self.workspace.scratch() if self._scratch_bytes else None
        context = runtime.new_context(self._engine, name)
        if scratch is not None:
            context.set_device_memory(scratch.data_ptr(), scratch.numel())
        for spec in self.inputs:
            if not context.set_input_shape(spec.name, spec.shape):
                raise runtime.error(f"{name} does not take `{spec}`")
        for tensor_name, tensor in tensors.items():
            if not context.set_tensor_address(tensor_name, tensor.data_ptr()):
                raise runtime.error(f"{name} does not take an address for `{tensor_name}`")
        held = (tensors, scratch)  # a context knows addresses only: what lies there lives as long as the launch does
        stream = self.workspace.stream_handle

        def enqueue() -> None:
            assert held
            if not context.execute_async_v3(stream):
                raise runtime.error(f"TensorRT could not run {name}")

        return runtime.repeatable(enqueue, self._engine, context, name)

    def _free(self) -> None:
        self._engine = None

    def _check_interface(self, plan: Path) -> None:
        """Compare the plan's tensors with the graph's."""
        engine, trt = self._engine, self._runtime.trt
        names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        came = {name: (tuple(engine.get_tensor_shape(name)), engine.get_tensor_dtype(name)) for name in names}
        expected = {spec.name: (spec.shape, _dtype(trt, spec)) for spec in (*self.inputs, *self.outputs)}
        if came != expected:
            self._engine = None
            different = sorted(name for name in {*came, *expected} if came.get(name) != expected.get(name))
            raise EngineError(
                f"{plan} is not the plan of this graph: {', '.join(different)} differ. Build the plans again."
            )


def _dtype(trt: Any, spec: TensorSpec) -> Any:
    return getattr(trt.DataType, DTYPES[spec.dtype])
