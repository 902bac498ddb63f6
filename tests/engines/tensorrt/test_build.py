"""TensorRT plans, built for real without a GPU: what the manifest says of them; a failed build changes nothing."""

from __future__ import annotations

import hashlib
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import pytest

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.bundle.manifest import GraphRecord
from vcut_trt.engines.tensorrt import build as tensorrt_build
from vcut_trt.engines.tensorrt import module as tensorrt_module
from vcut_trt.engines.tensorrt.build import BuildConfig, build_plans
from vcut_trt.engines.tensorrt.builder import rtx_flags
from vcut_trt.engines.tensorrt.module import Flavour, FlavourChoice, installed
from vcut_trt.engines.tensorrt.targets import parse_targets
from vcut_trt.errors import BuildError, BundleError
from vcut_trt.spec.graphs import graph_names
from vcut_trt.spec.interface import GraphName
from vcut_trt.spec.precision import Precision
from vcut_trt.work.files import FileRecord
from vcut_trt.work.progress import Advance

pytestmark = pytest.mark.skipif(not installed(Flavour.RTX), reason="needs TensorRT for RTX: the extra rtx")

PATIENCE_SECONDS = 300  # a guard against hanging only
INTERRUPT_AFTER = 20  # reports of a stage
A10_L4 = BuildConfig(targets=parse_targets(["a10", "l4"]))
A10 = BuildConfig(targets=parse_targets(["a10"]))


@pytest.fixture
def ctrl_c() -> Iterator[Callable[[], None]]:
    """Presses Ctrl-C in whichever thread calls it: that thread stands still until the main one has seen it."""
    seen = threading.Event()

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        seen.set()
        raise KeyboardInterrupt

    def press() -> None:
        signal.raise_signal(signal.SIGINT)
        assert seen.wait(PATIENCE_SECONDS)

    before = signal.signal(signal.SIGINT, interrupt)
    yield press
    signal.signal(signal.SIGINT, before)


class Recorder:
    """Progress that remembers; with `interrupt_in` it interrupts in the middle of that stage."""

    def __init__(self, interrupt_in: str | None = None, interrupt: Callable[[], None] = lambda: None) -> None:
        self.stages: list[str] = []
        self.messages: list[str] = []
        self.reports: dict[str, list[tuple[int, int]]] = {}
        self._interrupt_in = interrupt_in
        self._interrupt = interrupt

    @contextmanager
    def stage(self, title: str) -> Iterator[Advance]:
        self.stages.append(title)
        reports = self.reports.setdefault(title.partition(":")[0], [])

        def advance(done: int, total: int) -> None:
            reports.append((done, total))
            interrupting = self._interrupt_in is not None and title.startswith(self._interrupt_in)
            if interrupting and len(reports) == INTERRUPT_AFTER:
                self._interrupt()

        yield advance

    def message(self, text: str) -> None:
        self.messages.append(text)


def everything(root: Path) -> dict[str, bytes | None]:
    """Every file with its content, and every folder."""
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in sorted(root.rglob("*"))}


@pytest.fixture(scope="module")
def progress() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def built(nano_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory, progress: Recorder) -> Bundle:
    """The nano bundle with plans for A10 and L4. Read only."""
    root = Path(shutil.copytree(nano_bundle.root, tmp_path_factory.mktemp("built") / "nano"))
    return build_plans(Bundle.open(root), A10_L4, progress)


@pytest.fixture
def without_plans(nano_bundle: Bundle, tmp_path: Path) -> Bundle:
    return Bundle.open(Path(shutil.copytree(nano_bundle.root, tmp_path / "nano")))


@pytest.fixture
def with_plans(built: Bundle, tmp_path: Path) -> Bundle:
    return Bundle.open(Path(shutil.copytree(built.root, tmp_path / "nano")))


def test_one_plan_a_graph_is_found_by_name_with_the_right_hash(built: Bundle) -> None:
    reopened = Bundle.open(built.root)
    assert reopened.manifest == built.manifest
    assert [plan.graph for plan in reopened.manifest.plans] == list(graph_names())
    for plan in reopened.manifest.plans:
        content = reopened.path(plan.file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == plan.file.sha256
        assert len(content) == plan.file.nbytes
        assert Path(plan.file.path).stem == plan.graph.value
        reopened.verify(plan.file)


def test_a_plan_is_tensorrts_and_of_the_version_that_the_manifest_names(built: Bundle) -> None:
    for plan in built.manifest.plans:
        assert (plan.flavour, plan.targets, plan.compute_capabilities) == ("rtx", ("a10", "l4"), ("8.6", "8.9"))
        header = built.path(plan.file).read_bytes()[:64]
        assert header.startswith(b"vtrt")
        assert bytes(map(int, plan.version.split("."))) in header


def test_the_manifest_tells_each_plans_memory(built: Bundle) -> None:
    for plan in built.manifest.plans:
        stored = built.manifest.graphs[plan.graph].weights.nbytes
        assert plan.weights_bytes == pytest.approx(stored, rel=0.05)
        assert 0 < plan.scratch_bytes <= plan.activation_bytes
    activation = {plan.graph: plan.activation_bytes for plan in built.manifest.plans}
    assert activation[GraphName.UNET_SINGLE] < activation[GraphName.UNET_CFG]


def test_plans_lie_in_a_folder_that_names_version_and_gpus_and_graphs_are_untouched(
    built: Bundle, nano_bundle: Bundle
) -> None:
    before, after = everything(nano_bundle.root), everything(built.root)
    folder = "plans/rtx-" + ".".join(built.manifest.plans[0].version.split(".")[:3]) + "-sm86-sm89"
    assert after.keys() - before.keys() == {"plans", folder, *(f"{folder}/{name.value}.plan" for name in graph_names())}
    assert [name for name, content in before.items() if after[name] != content] == ["bundle.json"]


def test_progress_counts_up_to_its_total(built: Bundle, progress: Recorder) -> None:
    assert progress.stages == [f"{name.value}: build plan" for name in graph_names()]
    for reports in progress.reports.values():
        assert len(reports) > 100
        assert [done for done, _ in reports] == sorted(done for done, _ in reports)
        assert all(0 < done <= total for done, total in reports)


def test_fp32_attention_is_warned_of_with_its_bytes(built: Bundle, progress: Recorder) -> None:
    warned = [message for message in progress.messages if "TensorRT fuses no fp32 attention" in message]
    assert [message.partition(":")[0] for message in warned] == ["unet_cfg", "unet_single"]
    assert all("8 of its 8 attentions are not fused" in message and " bytes" in message for message in warned)


def test_a_rebuild_replaces_the_plans_of_the_same_gpus_only(toy: Bundle) -> None:
    config = BuildConfig(targets=parse_targets(["l4"]))
    only_l4 = build_plans(toy, config)
    both = build_plans(only_l4, A10)
    assert len(both.manifest.plans) == 2 * len(graph_names())
    stale = both.root / Path(both.manifest.plans[0].file.path).with_name("stale")
    stale.write_text("x")
    again = build_plans(both, config)
    assert len(again.manifest.plans) == 2 * len(graph_names())
    assert sorted({plan.compute_capabilities for plan in again.manifest.plans}) == [("8.6",), ("8.9",)]
    assert not stale.exists()
    again.verify(*(plan.file for plan in again.manifest.plans))
    assert sum(1 for path in (again.root / "plans").iterdir()) == 2
    assert Bundle.open(again.root).manifest == again.manifest


@pytest.mark.parametrize("stage", ["image_encoder", "unet_cfg"])
def test_a_build_cancelled_half_way_leaves_a_bundle_with_plans_as_it_was(
    with_plans: Bundle, stage: str, ctrl_c: Callable[[], None]
) -> None:
    before = everything(with_plans.root)
    progress = Recorder(stage, ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        build_plans(with_plans, A10_L4, progress)
    assert progress.stages[-1].startswith(stage)
    assert everything(with_plans.root) == before


def test_ctrl_c_stops_the_builder_itself(
    built: Bundle, progress: Recorder, without_plans: Bundle, ctrl_c: Callable[[], None]
) -> None:
    interrupted = Recorder("unet_cfg", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        build_plans(without_plans, A10_L4, interrupted)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("build ")]
    assert len(interrupted.reports["unet_cfg"]) < len(progress.reports["unet_cfg"]) / 2


def test_a_build_cancelled_half_way_leaves_a_bundle_without_plans_as_it_was(
    without_plans: Bundle, ctrl_c: Callable[[], None]
) -> None:
    before = everything(without_plans.root)
    with pytest.raises(KeyboardInterrupt):
        build_plans(without_plans, A10, Recorder("vae_encoder", ctrl_c))
    assert everything(without_plans.root) == before


def test_a_disk_that_fills_up_leaves_the_bundle_as_it_was(with_plans: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything(with_plans.root)

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensorrt_build, "_build", full)
    with pytest.raises(BuildError, match="No space left on device"):
        build_plans(with_plans, A10_L4)
    assert everything(with_plans.root) == before


def test_a_changed_graph_is_not_built(without_plans: Bundle) -> None:
    weights = without_plans.path(without_plans.manifest.graphs[GraphName.IMAGE_ENCODER].weights)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BundleError, match="image_encoder.weights was changed"):
        build_plans(without_plans, A10)


def test_a_gpu_that_rtx_does_not_know_is_refused_with_those_it_knows(nano_bundle: Bundle) -> None:
    with pytest.raises(BuildError, match=r"does not build for h100 \(sm90\); it knows .*sm86.*sm89.* --target native"):
        build_plans(nano_bundle, BuildConfig(targets=parse_targets(["a10", "h100"])))


def test_without_any_tensorrt_both_installs_are_named(nano_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_module, "installed", lambda _flavour: False)
    with pytest.raises(BuildError, match=r"is not installed: .*vcut-trt\[rtx\].*vcut-trt\[tensorrt\]"):
        build_plans(nano_bundle, A10)


def test_native_needs_a_gpu(nano_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_module, "has_cuda_gpu", lambda: False)
    with pytest.raises(BuildError, match="--target native builds for the GPU of this machine, and there is none"):
        build_plans(nano_bundle, BuildConfig(targets=parse_targets(["native"])))


def test_classic_builds_for_this_machine_only(nano_bundle: Bundle) -> None:
    with pytest.raises(BuildError, match="classic TensorRT builds for the GPU of the machine alone.* --tensorrt rtx"):
        build_plans(nano_bundle, BuildConfig(targets=parse_targets(["a10"]), tensorrt=FlavourChoice.CLASSIC))


HEADS, TOKENS, HEAD_DIM = 4, 256, 64


def save_attention(path: Path, *, fused: bool) -> None:
    """fp16 attention: over 4-D tensors, which RTX fuses, or with Q and K cast to fp32, which it does not."""
    shape = [2, HEADS, TOKENS, HEAD_DIM]
    half, single = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    scale = onnx.numpy_helper.from_array(np.array(HEAD_DIM**-0.5, dtype=np.float16), "scale")
    attention = [
        oh.make_node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        oh.make_node("Mul", ["q", "scale"], ["scaled"]),
    ]
    if fused:
        attention += [
            oh.make_node("MatMul", ["scaled", "kt"], ["scores"]),
            oh.make_node("Softmax", ["scores"], ["weights"], axis=-1),
        ]
    else:
        attention += [
            oh.make_node("Cast", ["scaled"], ["q32"], to=single),
            oh.make_node("Cast", ["kt"], ["k32"], to=single),
            oh.make_node("MatMul", ["q32", "k32"], ["scores"]),
            oh.make_node("Softmax", ["scores"], ["weights32"], axis=-1),
            oh.make_node("Cast", ["weights32"], ["weights"], to=half),
        ]
    attention.append(oh.make_node("MatMul", ["weights", "v"], ["out"]))
    inputs = [oh.make_tensor_value_info(name, half, shape) for name in ("q", "k", "v")]
    outputs = [oh.make_tensor_value_info("out", half, shape)]
    graph = oh.make_graph(attention, "attention", inputs, outputs, [scale])
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def make_toy(template: Bundle, root: Path, *, fused: bool) -> Bundle:
    """An fp16 bundle whose five graphs are all one attention."""
    (root / "onnx").mkdir(parents=True)
    path = root / "onnx" / "attention.onnx"
    save_attention(path, fused=fused)
    record = FileRecord.of(root, path)
    graph = GraphRecord(file=record, weights=record, inputs=(), outputs=())
    manifest = template.manifest.model_copy(
        update={"precision": Precision.FP16, "graphs": dict.fromkeys(graph_names(), graph), "configs": ()}
    )
    return Bundle(root, manifest).with_manifest(manifest)


@pytest.fixture
def toy(nano_bundle: Bundle, tmp_path: Path) -> Bundle:
    return make_toy(nano_bundle, tmp_path / "toy", fused=True)


@pytest.fixture
def unfused(nano_bundle: Bundle, tmp_path: Path) -> Bundle:
    return make_toy(nano_bundle, tmp_path / "unfused", fused=False)


def test_fused_fp16_attention_passes_the_guard_without_a_word(toy: Bundle) -> None:
    progress = Recorder()
    assert len(build_plans(toy, A10, progress).manifest.plans) == len(graph_names())
    assert progress.messages == []


def test_unfused_fp16_attention_fails_with_the_reason_and_leaves_no_plan(unfused: Bundle) -> None:
    before = everything(unfused.root)
    with pytest.raises(BuildError, match=r"unet_cfg: 1 of its 1 attentions are not fused.* bytes.*--allow-unfused"):
        build_plans(unfused, A10)
    assert everything(unfused.root) == before


def test_unfused_attention_is_kept_where_that_is_asked_for(unfused: Bundle) -> None:
    progress = Recorder()
    built = build_plans(unfused, BuildConfig(targets=A10.targets, allow_unfused=True), progress)
    assert len(built.manifest.plans) == len(graph_names())
    kept = [message for message in progress.messages if "Kept, as --allow-unfused asks" in message]
    assert [message.partition(":")[0] for message in kept] == ["unet_cfg", "unet_single"]


def test_fp32_is_not_rounded_to_tf32(toy: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    trt, flags = (
        tensorrt_module.load(Flavour.RTX),
        [],
    )  # before Polygraphy's backend, which looks for one as it is loaded
    from polygraphy.backend import trt as backend

    build = backend.engine_bytes_from_network

    def recorded(parsed: tuple[object, ...], config: Callable[..., Any], **options: Any) -> object:
        flags.append(config(*parsed[:2]).get_flag(trt.BuilderFlag.TF32))
        return build(parsed, config=config, **options)

    monkeypatch.setattr(backend, "engine_bytes_from_network", recorded)
    build_plans(toy, A10)
    assert flags == [False] * len(graph_names())


def test_rtx_plans_can_be_captured_in_a_cuda_graph() -> None:
    trt = tensorrt_module.load(Flavour.RTX)
    config = trt.Builder(trt.Logger()).create_builder_config()
    assert not config.get_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    rtx_flags(trt)(None, None, config)
    assert config.get_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    assert not config.get_flag(trt.BuilderFlag.TF32)
