"""ONNX graphs: several over one weights file, with the interface asked for, and nothing of this machine inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.external_data_helper
import pytest
from torch import Tensor, nn

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.errors import ExportError
from vcut_trt.export.onnx_graph import INLINE_BYTES, PAGE_BYTES, save_graphs, trace
from vcut_trt.spec.graphs import graph_names
from vcut_trt.spec.interface import GraphName, GraphSpec, TensorSpec

ROWS = 64
X, Y = (TensorSpec(name=name, shape=(2, ROWS), dtype="float32") for name in ("x", "y"))
SPEC = GraphSpec(inputs=(X,), outputs=(Y,))


class Shared(nn.Module):
    """Two modules of this over one layer share its weights; each has a layer of its own beside it."""

    def __init__(self, shared: nn.Linear) -> None:
        super().__init__()
        self.shared = shared
        self.own = nn.Linear(ROWS, ROWS)

    def forward(self, x: Tensor) -> Tensor:
        return self.own(self.shared(x))


class DataDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Shared]:
    """Two graphs that were written over one file of weights. Read only."""
    folder, shared = tmp_path_factory.mktemp("graphs"), nn.Linear(ROWS, ROWS)
    modules = {folder / f"{name}.onnx": Shared(shared).eval() for name in ("one", "other")}
    save_graphs({path: trace(m, SPEC, opset=21) for path, m in modules.items()}, folder / "both.weights")
    return modules


def external(path: Path) -> dict[str, onnx.external_data_helper.ExternalDataInfo]:
    model = onnx.load(path, load_external_data=False)
    return {
        tensor.name: onnx.external_data_helper.ExternalDataInfo(tensor)
        for tensor in model.graph.initializer
        if onnx.external_data_helper.uses_external_data(tensor)
    }


def initializers(path: Path) -> dict[str, np.ndarray]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def test_two_graphs_store_a_shared_tensor_once(graphs: dict[Path, Shared]) -> None:
    one, other = map(external, graphs)
    (folder,) = {path.parent for path in graphs}
    assert {info.location for info in (*one.values(), *other.values())} == {"both.weights"}
    assert {info.offset for info in one.values()} & {info.offset for info in other.values()}
    matrix = ROWS * ROWS * 4
    assert (folder / "both.weights").stat().st_size <= 3 * (matrix + PAGE_BYTES)  # one shared, two of their own
    assert sorted(path.name for path in folder.iterdir()) == ["both.weights", "one.onnx", "other.onnx"]


def test_each_graph_finds_its_own_weights(graphs: dict[Path, Shared]) -> None:
    for path, module in graphs.items():
        stored = [array for array in initializers(path).values() if array.shape == (ROWS, ROWS)]
        assert len(stored) == 2
        for layer in (module.shared, module.own):
            weight = layer.weight.detach().numpy()
            assert any(np.array_equal(array, weight) or np.array_equal(array, weight.T) for array in stored)


def test_large_tensors_begin_on_a_page_and_small_ones_stay_inside(graphs: dict[Path, Shared]) -> None:
    for path in graphs:
        outside = external(path)
        assert all(info.offset % PAGE_BYTES == 0 for info in outside.values())
        for name, array in initializers(path).items():
            assert (name in outside) == (array.nbytes >= INLINE_BYTES)


def test_both_unet_graphs_resolve_a_parameters_name_to_the_same_bytes(nano_bundle: Bundle) -> None:
    paths = [nano_bundle.verify_graph(name) for name in (GraphName.UNET_CFG, GraphName.UNET_SINGLE)]
    one, other = map(external, paths)
    assert {info.location for info in (*one.values(), *other.values())} == {"unet.weights"}
    weights = [name for name in one.keys() & other.keys() if name.startswith("passes.unet.")]
    assert len(weights) > 50
    for name in weights:
        assert (one[name].offset, one[name].length) == (other[name].offset, other[name].length)
    arrays, others = map(initializers, paths)
    for name in weights:
        np.testing.assert_array_equal(arrays[name], others[name])
    assert nano_bundle.manifest.graphs[GraphName.UNET_CFG].weights == (
        nano_bundle.manifest.graphs[GraphName.UNET_SINGLE].weights
    )


def test_the_unet_weights_file_holds_hardly_more_than_one_unet(nano_bundle: Bundle) -> None:
    single = external(nano_bundle.verify_graph(GraphName.UNET_SINGLE))
    pages = sum(-(-info.length // PAGE_BYTES) * PAGE_BYTES for info in single.values())
    assert nano_bundle.manifest.graphs[GraphName.UNET_SINGLE].weights.nbytes < 1.1 * pages


@pytest.mark.parametrize("name", graph_names())
def test_a_graph_carries_no_stack_traces_metadata_or_paths(nano_bundle: Bundle, name: GraphName) -> None:
    path = nano_bundle.verify_graph(name)
    model = onnx.load(path, load_external_data=False)
    assert not model.metadata_props
    assert not model.doc_string
    for part in (model.graph, *model.graph.node, *model.graph.initializer):
        assert not part.doc_string
        assert not part.metadata_props
    content = path.read_bytes()
    for trace_of_this_machine in (b"site-packages", b".py", str(Path(__file__).parents[1]).encode()):
        assert trace_of_this_machine not in content


@pytest.mark.parametrize("name", graph_names())
def test_a_graph_has_static_shapes_one_opset_and_the_manifests_interface(nano_bundle: Bundle, name: GraphName) -> None:
    path = nano_bundle.verify_graph(name)
    model = onnx.load(path, load_external_data=False)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 21)]
    record = nano_bundle.manifest.graphs[name]
    for values, specs in ((model.graph.input, record.inputs), (model.graph.output, record.outputs)):
        shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values}
        assert shapes == {spec.name: spec.shape for spec in specs}


@pytest.mark.parametrize("opset", [21, 23])
def test_group_normalization_stays_whole(opset: int) -> None:
    model = trace(nn.GroupNorm(4, ROWS).eval(), SPEC, opset=opset)
    assert [node.op_type for node in model.graph] == ["GroupNormalization"]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ((TensorSpec(name="y", shape=(2, ROWS + 1), dtype="float32"),), rf"outputs .*\(2, {ROWS}\).*\(2, {ROWS + 1}\)"),
        ((TensorSpec(name="y", shape=(2, ROWS), dtype="float16"),), "outputs .*float32; expected .*float16"),
    ],
    ids=["shape", "type"],
)
def test_another_interface_than_asked_for_is_refused(outputs: tuple[TensorSpec, ...], message: str) -> None:
    with pytest.raises(ExportError, match=message):
        trace(nn.ReLU(), GraphSpec(inputs=(X,), outputs=outputs), opset=21)


def test_a_module_that_cannot_be_traced_is_named() -> None:
    with pytest.raises(ExportError, match="DataDependent could not be traced"):
        trace(DataDependent(), SPEC, opset=21)
