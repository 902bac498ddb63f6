"""TensorRT's runtime, on a stand-in that enforces its rules: calls, addresses, scratch, CUDA graphs, memory."""

from __future__ import annotations

import gc
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engines.tensorrt import standin
from tests.engines.tensorrt.standin import SCRATCH, RuleBrokenError, StandIn, with_plans
from tests.runtime.test_step_plans import SIGMAS, cached_bundle, latents_of
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.engines.tensorrt.engine import TensorRTEngine
from vcut_trt.engines.tensorrt.module import Flavour, load
from vcut_trt.engines.tensorrt.opener import PlanOpener
from vcut_trt.engines.tensorrt.plan_choice import INVALID
from vcut_trt.engines.tensorrt.runtime import ClassicRuntime, PlanRuntime, RtxRuntime
from vcut_trt.engines.tensorrt.runtime_cache import RuntimeCacheFile
from vcut_trt.engines.workspace import Workspace
from vcut_trt.errors import DeviceMemoryError, EngineError
from vcut_trt.measure.samples import sample_images
from vcut_trt.runtime.engine_set import EngineSet
from vcut_trt.runtime.pipeline import VCutPipeline
from vcut_trt.spec.graphs import graph_names
from vcut_trt.spec.interface import GraphName, GraphSpec
from vcut_trt.spec.residency import Residency, layouts
from vcut_trt.spec.solvers import Solver
from vcut_trt.spec.step_plan import AfterCut, StepPlan

CPU = torch.device("cpu")
STEPS = 4
FLAVOURS = ["classic", "rtx"]


@pytest.fixture(scope="module")
def bundles(nano_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    made = {}
    for flavour in FLAVOURS:
        root = Path(tmp_path_factory.mktemp(flavour)) / "nano"
        shutil.copytree(nano_bundle.root, root)
        made[flavour] = with_plans(nano_bundle, root, flavour)
    return made


@pytest.fixture(scope="module")
def expected(nano_bundle: Bundle) -> dict[int, Tensor]:
    """Videos of ONNX Runtime, whose numbers the stand-in computes too."""
    with VCutPipeline.from_bundle(nano_bundle, device="cpu") as pipeline:
        return {cut: video(pipeline, cut) for cut in (1, 3, STEPS + 1)}


def video(pipeline: VCutPipeline, cut_step: int = 3, seed: int = 0) -> Tensor:
    return pipeline(
        sample_images(1),
        num_inference_steps=STEPS,
        cut_step=cut_step,
        generator=torch.Generator().manual_seed(seed),
        output_type="pt",
    ).frames


class Rig:
    """A stand-in with what runs plans on it."""

    def __init__(self, bundle: Bundle, cache: Path, *, cuda_graphs: bool = True, **options: Any) -> None:
        self.bundle = bundle
        (self.plans,) = bundle.manifest.plan_sets()
        self.trt = StandIn(bundle, **options)
        self.workspace = Workspace(CPU)
        self.workspace.capture = self.trt.capture  # type: ignore[method-assign]
        self.workspace.on_device = self.trt.device  # type: ignore[method-assign]
        self.workspace.running = self.trt.device  # type: ignore[method-assign]
        self.runtime: PlanRuntime
        if self.plans.flavour == "rtx":
            kept = RuntimeCacheFile(cache / "kernels.cache")
            self.runtime = RtxRuntime(self.trt, self.workspace, cuda_graphs=cuda_graphs, cache=kept)  # type: ignore[arg-type]
        else:
            self.runtime = ClassicRuntime(self.trt, self.workspace, cuda_graphs=cuda_graphs)  # type: ignore[arg-type]

    def open(self, name: GraphName) -> TensorRTEngine:
        graph = self.bundle.manifest.graphs[name]
        spec = GraphSpec(inputs=graph.inputs, outputs=graph.outputs)
        return TensorRTEngine(self.bundle.path(self.plans.plans[name].file), spec, self.runtime)

    def pipeline(self, layout: int = 0, residency: Residency = Residency.AUTO) -> VCutPipeline:
        layouts_here = layouts(Residency.AUTO, tuple(self.bundle.manifest.graphs))
        opener = PlanOpener(self.bundle, self.plans, self.runtime, layouts_here[layout])
        manifest = self.bundle.manifest
        return VCutPipeline.from_configs(
            self.bundle.root,
            EngineSet(opener, residency),
            video=manifest.video,
            precision=manifest.precision,
            default_cut_step=manifest.cut_step,
            steps=manifest.steps,
        )

    def count(self, event: str) -> Counter[Any]:
        return Counter(entry[1] if len(entry) > 1 else None for entry in self.trt.events if entry[0] == event)


@pytest.fixture(params=FLAVOURS)
def rig(request: pytest.FixtureRequest, bundles: dict[str, Bundle], tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(bundles[request.param], tmp_path)
    yield rig
    gc.collect()
    assert not rig.trt.broken


@pytest.mark.parametrize("layout", [0, 1, 2], ids=["resident", "staged", "staged in three"])
@pytest.mark.parametrize("cuda_graphs", [True, False], ids=["graphs", "no graphs"])
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_plans_make_the_videos_that_onnx_runtime_makes(
    flavour: str,
    cuda_graphs: bool,
    layout: int,
    bundles: dict[str, Bundle],
    expected: dict[int, Tensor],
    tmp_path: Path,
) -> None:
    rig = Rig(bundles[flavour], tmp_path, cuda_graphs=cuda_graphs)
    with rig.pipeline(layout) as pipeline:
        for cut, frames in expected.items():
            assert torch.equal(video(pipeline, cut), frames), cut
    gc.collect()
    assert not rig.trt.live
    assert not rig.trt.broken


def test_addresses_are_set_once_and_a_step_is_one_enqueue(rig: Rig) -> None:
    with rig.pipeline() as pipeline:
        video(pipeline)
        set_up = [entry for entry in rig.trt.events if entry[0] in ("address", "context", "scratch", "deserialize")]
        rig.trt.events.clear()
        video(pipeline, seed=1)
        again = [entry for entry in rig.trt.events if entry[0] in ("address", "context", "scratch", "deserialize")]
    assert again == []
    assert len([entry for entry in set_up if entry[0] == "context"]) == 3 + 2 * 2  # one for each way of the latents
    addresses = {(graph, name): set() for _, graph, name, _ in (e for e in set_up if e[0] == "address")}
    for _, graph, name, address in (entry for entry in set_up if entry[0] == "address"):
        addresses[graph, name].add(address)
    latents = addresses["unet_cfg", "latents"]
    assert len(latents) == 2
    for graph in ("unet_cfg", "unet_single"):
        assert addresses[graph, "latents"] == addresses[graph, "next_latents"] == latents
        assert addresses[graph, "scalars"] == addresses["unet_cfg", "scalars"]
        assert len(addresses[graph, "scalars"]) == len(addresses[graph, "image_latents"]) == 1
    assert addresses["unet_cfg", "image_latents"] == addresses["unet_single", "image_latents"]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_plan_of_steps_sets_every_tensor_once_and_moves_none(
    flavour: str, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    cached = cached_bundle(tmp_path_factory, 0)
    root = Path(shutil.copytree(cached.root, tmp_path / "bundle"))
    rig = Rig(with_plans(cached, root, flavour), tmp_path)
    plan = StepPlan(solver=Solver.AB2, sigmas=SIGMAS, cut_step=4, shallow_steps=(2, 5), after_cut=AfterCut.RESIDUAL)
    with VCutPipeline.from_bundle(cached, device="cpu") as reference, rig.pipeline() as pipeline:
        wanted = latents_of(reference, plan)
        assert torch.equal(latents_of(pipeline, plan), wanted)
        set_up = [entry[1:] for entry in rig.trt.events if entry[0] == "address"]
        rig.trt.events.clear()
        assert torch.equal(latents_of(pipeline, plan), wanted)
        assert not rig.count("address")
    addresses: dict[tuple[str, str], list[int]] = {}
    for graph, name, address in set_up:
        addresses.setdefault((graph, name), []).append(address)
    unets = [str(name) for name in cached.manifest.step_graphs]
    assert all(len(found) == 2 for (graph, _), found in addresses.items() if graph in unets), "once for each direction"
    histories = {frozenset(addresses[graph, name]) for graph in unets for name in ("history", "next_history")}
    residuals = {address for graph in unets for address in addresses[graph, "guidance_residual"]}
    assert [len(found) for found in (histories, next(iter(histories)), residuals)] == [1, 2, 1]
    features = {graph: set(addresses[graph, "deep_feature"]) for graph in unets}
    guided, single = (features[graph] for graph in ("unet_cfg", "unet_single"))
    assert (features["unet_cfg_shallow"], features["unet_single_shallow"]) == (guided, single)
    half = cached.manifest.graphs[unets[1]].outputs[-1].nbytes
    assert {address + half for address in guided} == single, "the conditional half of one buffer, where it lies"
    gc.collect()
    assert not rig.trt.broken


def test_one_scratch_as_large_as_the_largest_serves_all(rig: Rig) -> None:
    with rig.pipeline() as pipeline:
        video(pipeline)
    scratch = {entry[2:] for entry in rig.trt.events if entry[0] == "scratch"}
    assert len(scratch) == 1
    assert scratch.pop()[1] == max(SCRATCH.values())


def test_an_engine_without_scratch_is_given_none(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    rig = Rig(bundles["classic"], tmp_path, scratch=dict.fromkeys(graph_names(), 0))
    with rig.pipeline() as pipeline:
        video(pipeline)
    assert not rig.count("scratch")


def test_classic_captures_at_a_launchs_second_run_and_replays(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    rig = Rig(bundles["classic"], tmp_path)
    with rig.pipeline() as pipeline:
        video(pipeline)
        rig.trt.events.clear()
        video(pipeline)
        video(pipeline)
        rig.trt.events.clear()
        video(pipeline)
    # the fourth video is replayed but for nothing: encoders, each of 5 steps, 2 chunks of frames
    assert rig.count("replayed")[None] == 2 + STEPS + 2
    assert not rig.count("enqueue")


def test_rtx_captures_by_itself_and_only_once_for_each_context(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    rig = Rig(bundles["rtx"], tmp_path)
    with rig.pipeline() as pipeline:
        for seed in range(3):
            video(pipeline, seed=seed)
    ways = {"image_encoder": 1, "vae_encoder": 1, "unet_cfg": 2, "unet_single": 2, "vae_decoder": 1}
    assert rig.count("captured itself") == ways
    assert not rig.count("replayed")


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_streamed_weights_are_not_captured_and_say_so(
    flavour: str, bundles: dict[str, Bundle], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(bundles[flavour], tmp_path, streamed=set(graph_names()))
    with rig.pipeline() as pipeline:
        for seed in range(3):
            video(pipeline, seed=seed)
    assert not rig.count("replayed")
    assert not rig.count("captured itself")
    assert "unet_cfg runs without a CUDA graph: its weights are streamed" in caplog.text


def test_staged_engines_are_never_captured(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    for flavour in FLAVOURS:
        rig = Rig(bundles[flavour], tmp_path)
        with rig.pipeline(layout=2) as pipeline:
            video(pipeline)
            video(pipeline)
        assert not rig.count("replayed")
        assert not rig.count("captured itself")


def test_staged_loads_each_stage_after_the_one_before_has_left(rig: Rig) -> None:
    with rig.pipeline(layout=2) as pipeline:
        video(pipeline)
    moves = [entry[:2] for entry in rig.trt.events if entry[0] in ("deserialize", "release")]
    stages = [["image_encoder", "vae_encoder"], ["unet_cfg", "unet_single"], ["vae_decoder"]]
    for stage in stages:
        came, moves = moves[: len(stage)], moves[len(stage) :]
        left, moves = moves[: len(stage)], moves[len(stage) :]
        assert came == [("deserialize", name) for name in stage]
        assert sorted(left) == [("release", name) for name in sorted(stage)]


@pytest.mark.parametrize(("room", "residency"), [(5, "resident"), (4, "staged"), (3, "staged"), (2, "staged")])
def test_where_engines_do_not_fit_fewer_are_loaded_and_the_video_is_the_same(
    room: int, residency: str, rig: Rig, expected: dict[int, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    rig.trt.room = room
    with rig.pipeline() as pipeline:
        assert torch.equal(video(pipeline), expected[3])
        assert torch.equal(video(pipeline), expected[3])
        assert pipeline.residency.value == residency
    assert caplog.text.count("Going on with fewer engines") == {5: 0, 4: 1, 3: 1, 2: 2}[room]
    assert not rig.trt.live


def test_where_not_even_one_stage_fits_the_error_is_tensorrts(rig: Rig) -> None:
    rig.trt.room = 1
    with rig.pipeline() as pipeline, pytest.raises(DeviceMemoryError, match="cannot load .*OutOfMemory"):
        video(pipeline)
    gc.collect()
    assert not rig.trt.live


def test_resident_that_does_not_fit_is_an_error_that_leaves_nothing_loaded(rig: Rig) -> None:
    rig.trt.room = 4
    with pytest.raises(DeviceMemoryError):
        rig.pipeline(residency=Residency.RESIDENT)
    gc.collect()
    assert not rig.trt.live


def test_a_launch_keeps_what_lies_at_its_addresses(rig: Rig) -> None:
    with rig.open(GraphName.VAE_ENCODER) as engine:
        tensors = {spec.name: rig.workspace.empty_like_spec(spec) for spec in (*engine.inputs, *engine.outputs)}
        for tensor in tensors.values():
            tensor.fill_(0.25)
        wanted = engine(image=tensors["image"])["image_latents"]
        output, launch = tensors["image_latents"], engine.bind(tensors)
        del tensors, tensor
        gc.collect()
        _reused = [torch.full((64 * 128 * 3,), 9.0) for _ in range(50)]
        with rig.workspace.running():
            launch()
        assert torch.equal(output, wanted)
    with pytest.raises(EngineError, match="closed"):
        launch()
    gc.collect()
    assert not rig.trt.live


def test_a_plan_that_is_none_is_told_in_tensorrts_words(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "unet_cfg.plan"
    path.write_bytes(b"not a plan at all")
    graph = rig.bundle.manifest.graphs[GraphName.UNET_CFG]
    with pytest.raises(EngineError, match="TensorRT cannot load .*unet_cfg.plan: magic tag: not a plan"):
        TensorRTEngine(path, GraphSpec(inputs=graph.inputs, outputs=graph.outputs), rig.runtime)


def test_the_plan_of_another_graph_is_refused_by_its_tensors(rig: Rig, tmp_path: Path) -> None:
    graph = rig.bundle.manifest.graphs[GraphName.UNET_CFG]
    path = rig.bundle.path(rig.plans.plans[GraphName.UNET_SINGLE].file)
    with pytest.raises(EngineError, match="not the plan of this graph: guidance_scale, image_projection differ"):
        TensorRTEngine(path, GraphSpec(inputs=graph.inputs, outputs=graph.outputs), rig.runtime)


def test_rtx_keeps_its_kernels_for_the_next_process(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    first, second = (Rig(bundles["rtx"], tmp_path) for _ in range(2))
    with first.pipeline() as pipeline:
        video(pipeline)
    with second.pipeline() as pipeline:
        video(pipeline)
    names = {name.value for name in graph_names()}
    assert set(first.count("kernels compiled")) == names | {f"{name}/run" for name in names}  # context, and first run
    assert not second.count("kernels compiled")


@pytest.mark.parametrize("layout", [0, 2], ids=["resident", "staged in three"])
def test_rtx_has_one_cache_that_lives_as_long_as_its_contexts(
    layout: int, bundles: dict[str, Bundle], tmp_path: Path
) -> None:
    rig = Rig(bundles["rtx"], tmp_path)
    with rig.pipeline(layout) as pipeline:
        video(pipeline)
        video(pipeline)
    assert rig.count("create cache") == {None: 1}
    assert rig.count("kernels compiled") == Counter(set(rig.count("kernels compiled")))  # none of them twice
    gc.collect()
    assert not rig.trt.broken


def test_a_cache_or_config_that_dies_first_is_seen(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    rig = Rig(bundles["rtx"], tmp_path)
    engine = standin.Engine(rig.trt, GraphName.VAE_DECODER)
    for lost in ("config", "cache"):
        held: dict[str, Any] = {"config": engine.create_runtime_config()}
        held["config"].set_execution_context_allocation_strategy(
            standin.ExecutionContextAllocationStrategy.USER_MANAGED
        )
        held["cache"] = held["config"].create_runtime_cache()
        held["config"].set_runtime_cache(held["cache"])
        with rig.workspace.on_device():
            context = engine.create_execution_context(held["config"])
            del held[lost]
            with pytest.raises(RuleBrokenError, match="config or cache died"):
                context._look_up("kernel")
        del context
    assert len(rig.trt.broken) == 2


def test_the_stand_in_sees_broken_rules(rig: Rig) -> None:
    engine = standin.Engine(rig.trt, GraphName.VAE_DECODER)
    strategy = standin.ExecutionContextAllocationStrategy
    with pytest.raises(RuleBrokenError, match="another device"):
        engine.create_execution_context(strategy.USER_MANAGED)
    with rig.workspace.on_device():
        with pytest.raises(RuleBrokenError, match="memory of its own"):
            engine.create_execution_context(strategy.STATIC)
        context = engine.create_execution_context(strategy.USER_MANAGED)
    with pytest.raises(RuleBrokenError, match="not set"):
        context.execute_async_v3(0)
    with pytest.raises(RuleBrokenError, match="no multiple of 256"):
        context.set_tensor_address("latents", 256 + 64)


# What vcut_trt calls of each class; `standin` must have it and so must the real bindings.
SURFACE = {
    "Runtime": ["deserialize_cuda_engine", "get_engine_validity", "engine_header_size"],
    "ICudaEngine": [
        "num_io_tensors",
        "get_tensor_name",
        "get_tensor_shape",
        "get_tensor_dtype",
        "device_memory_size_v2",
        "streamable_weights_size",
        "create_execution_context",
        "create_runtime_config",
    ],
    "IRuntimeConfig": [
        "set_execution_context_allocation_strategy",
        "create_runtime_cache",
        "set_runtime_cache",
        "cuda_graph_strategy",
    ],
    "IRuntimeCache": ["serialize", "deserialize"],
    "IExecutionContext": [
        "set_device_memory",
        "set_input_shape",
        "set_tensor_address",
        "is_stream_capturable",
        "execute_async_v3",
    ],
    "EngineValidity": ["VALID", "SUBOPTIMAL", "INVALID"],
    "EngineInvalidityDiagnostics": [
        "VERSION_MISMATCH",
        "UNSUPPORTED_CC",
        "OLD_CUDA_DRIVER",
        "OLD_CUDA_RUNTIME",
        "INSUFFICIENT_GPU_MEMORY",
        "MALFORMED_ENGINE",
        "CUDA_ERROR",
    ],
    "DataType": ["FLOAT", "HALF", "BF16"],
    "ExecutionContextAllocationStrategy": ["STATIC", "USER_MANAGED"],
    "CudaGraphStrategy": ["DISABLED", "WHOLE_GRAPH_CAPTURE"],
    "ILogger": ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE", "log"],
}
OWN = {"name", "look_up"}  # what the stand-in has for itself
OURS = {
    "ICudaEngine": "Engine",
    "IExecutionContext": "ExecutionContext",
    "IRuntimeConfig": "RuntimeConfig",
    "IRuntimeCache": "RuntimeCache",
}


@pytest.mark.parametrize("name", SURFACE)
def test_the_real_bindings_have_what_the_stand_in_has(name: str, nano_bundle: Bundle) -> None:
    real = getattr(load(Flavour.RTX), name)
    ours = getattr(standin, OURS.get(name, name))
    public = {key for key in vars(ours) if not key.startswith("_")} - OWN
    assert public <= set(SURFACE[name]), "the stand-in has more than it is checked for"
    for member in SURFACE[name]:
        assert hasattr(real, member), member
        parameters = _parameters(getattr(real, member))
        if parameters is not None and hasattr(ours, member):
            taken = getattr(ours, member).__code__.co_argcount
            assert any(taken == count for count in parameters), (member, taken, parameters)
        value = getattr(ours, member, None)
        if isinstance(value, Enum) and isinstance(value.value, int):
            assert value.value == int(getattr(real, member)), member


def test_what_a_plan_may_be_found_invalid_for_is_all_known(nano_bundle: Bundle) -> None:
    assert set(INVALID) == set(load(Flavour.RTX).EngineInvalidityDiagnostics.__members__)


def test_where_no_context_fits_fewer_engines_are_loaded(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.trt.room_for_contexts = 5  # of 3 + 2 * 2
    with rig.pipeline() as pipeline:
        video(pipeline)
        assert pipeline.residency is Residency.STAGED
    assert "could not be allocated" in caplog.text


def test_a_graph_that_cuda_cannot_capture_runs_without_and_says_so(
    rig: Rig, expected: dict[int, Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    rig.trt.uncapturable = {GraphName.UNET_CFG}
    with rig.pipeline() as pipeline:
        for _ in range(3):
            assert torch.equal(video(pipeline), expected[3])
    assert "unet_cfg runs without a CUDA graph" in caplog.text
    assert "unet_single runs without" not in caplog.text


def test_rtx_replays_from_the_third_run_on(bundles: dict[str, Bundle], tmp_path: Path) -> None:
    rig = Rig(bundles["rtx"], tmp_path)
    with rig.pipeline() as pipeline:
        for seed in range(4):
            video(pipeline, seed=seed)
    assert rig.count("replayed itself")["image_encoder"] == 4 - 2


def _parameters(member: Any) -> set[int] | None:
    """How many parameters, `self` counted, the overloads of a pybind11 function take; None for what is no function."""
    if not callable(member) or not member.__doc__:
        return None
    documented = re.sub(r"<[^>]*>", "", member.__doc__)  # default values
    signatures = re.findall(rf"^\s*(?:\d+\. )?{member.__name__}\(self:.*\) ->", documented, re.MULTILINE)
    return {len(re.findall(r"\w+: ", signature)) for signature in signatures} or None


def test_the_parameters_of_the_bindings_are_read() -> None:
    trt = load(Flavour.RTX)
    assert _parameters(trt.IExecutionContext.set_tensor_address) == {3}
    assert _parameters(trt.ICudaEngine.create_execution_context) == {2}
    assert _parameters(trt.DataType.FLOAT) is None
