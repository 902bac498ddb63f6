"""A graph with tensors of its own: what runs it more than once."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from vcut_trt.engines.base import Engine
from vcut_trt.runtime.ranges import annotate
from vcut_trt.spec.interface import GraphName


class BoundGraph:
    """An engine bound, once, to its own input and output tensors.

    Raises:
        DeviceMemoryError: The GPU has no room for them.
    """

    def __init__(self, engine: Engine) -> None:
        (output,) = engine.outputs
        tensors = {spec.name: engine.workspace.empty_like_spec(spec) for spec in (*engine.inputs, output)}
        self._output = tensors[output.name]
        self._inputs = {spec.name: tensors[spec.name] for spec in engine.inputs}
        self._launch = engine.bind(tensors)
        self._name = output.name

    def __call__(self, **tensors: Tensor) -> Tensor:
        """Copy the inputs in, converting their type, and run. The output holds its numbers until the next call."""
        assert tensors.keys() == self._inputs.keys(), (tensors.keys(), self._inputs.keys())
        for name, tensor in tensors.items():
            assert tensor.shape == self._inputs[name].shape, (name, tensor.shape, self._inputs[name].shape)
            self._inputs[name].copy_(tensor)
        with annotate("engine: %s", self._name):
            self._launch()
        return self._output

    def rehearse(self) -> None:
        """Run on zeros."""
        for tensor in self._inputs.values():
            tensor.zero_()
        self._launch()


def bind_all(engines: Mapping[GraphName, Engine]) -> dict[GraphName, BoundGraph]:
    """Every engine of a stage, bound."""
    return {name: BoundGraph(engine) for name, engine in engines.items()}
