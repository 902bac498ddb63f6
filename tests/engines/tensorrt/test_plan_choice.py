"""Which plans run on a GPU, in which layout; what is wrong is told in a fixed order, with the command that mends it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vcut_trt.bundle.bundle import Bundle
from vcut_trt.bundle.manifest import GraphRecord, PlanRecord
from vcut_trt.bundle.memory import GIB, WORKING_BYTES
from vcut_trt.engines.tensorrt.gpu import Gpu
from vcut_trt.engines.tensorrt.module import Flavour
from vcut_trt.engines.tensorrt.plan_choice import check_plans, choose_layout, find_plans, flavours_of, why_not
from vcut_trt.errors import BundleError, DeviceMemoryError, EngineError
from vcut_trt.spec.graphs import graph_names
from vcut_trt.spec.interface import GraphName, TensorSpec
from vcut_trt.spec.residency import LAYOUTS, Layout, Residency
from vcut_trt.work.files import FileRecord

RESIDENT, TWO_GROUPS, THREE_GROUPS = LAYOUTS
VERSION, OLDER = "1.7.1.116", "1.6.0.1"

WEIGHTS_GIB = {"image_encoder": 3, "vae_encoder": 1, "unet_cfg": 6, "unet_single": 5, "vae_decoder": 2}
ACTIVATION_GIB = {"image_encoder": 1, "vae_encoder": 4, "unet_cfg": 2, "unet_single": 1, "vae_decoder": 5}
TENSOR_BYTES = 4 * (4 * 10 + 2 * 7)  # `with_plans` gives each graph (10) fp32 in and (7) fp16 out; steps share theirs

# by hand: weights that are loaded together, the largest scratch among them, all tensors, what no manifest tells
NEED_RESIDENT = (3 + 1 + 6 + 5 + 2 + 5) * GIB + TENSOR_BYTES + WORKING_BYTES
NEED_TWO_GROUPS = (6 + 5 + 2 + 5) * GIB + TENSOR_BYTES + WORKING_BYTES
NEED_THREE_GROUPS = (6 + 5 + 2) * GIB + TENSOR_BYTES + WORKING_BYTES


def a10(free_bytes: int = 24 * GIB, compute_capability: tuple[int, int] = (8, 6)) -> Gpu:
    return Gpu(name="NVIDIA A10", compute_capability=compute_capability, free_bytes=free_bytes, driver_major=13)


def plan_records(
    root: Path,
    folder: str,
    *,
    flavour: str = "rtx",
    version: str = VERSION,
    compute_capabilities: tuple[str, ...] = ("8.6",),
) -> tuple[PlanRecord, ...]:
    """Five plans in `plans/FOLDER`: files that no TensorRT made, and records that tell the truth about them."""
    records = []
    for name in graph_names():
        path = root / "plans" / folder / f"{name.value}.plan"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{folder} {name.value}".encode())
        records.append(
            PlanRecord(
                graph=name,
                targets=("a10",),
                file=FileRecord.of(root, path),
                flavour=flavour,
                version=version,
                compute_capabilities=compute_capabilities,
                weights_bytes=WEIGHTS_GIB[name.value] * GIB,
                activation_bytes=ACTIVATION_GIB[name.value] * GIB,
                scratch_bytes=1,
            )
        )
    return tuple(records)


def with_plans(bundle: Bundle, root: Path, *plans: PlanRecord) -> Bundle:
    """The bundle, in `root`, with these plans, and graphs whose tensors have `TENSOR_BYTES`."""
    graphs = {
        name: GraphRecord(
            file=graph.file,
            weights=graph.weights,
            inputs=(TensorSpec(name="x", shape=(10,), dtype="float32"),),
            outputs=(TensorSpec(name="y", shape=(7,), dtype="float16"),),
        )
        for name, graph in bundle.manifest.graphs.items()
    }
    return Bundle(root, bundle.manifest.model_copy(update={"plans": plans, "graphs": graphs}))


@pytest.fixture
def bundle(nano_bundle: Bundle, tmp_path: Path) -> Bundle:
    """One folder of plans for compute capability 8.6."""
    return with_plans(nano_bundle, tmp_path, *plan_records(tmp_path, "sm86"))


def build_command(bundle: Bundle) -> str:
    return re.escape(f"vcut build {bundle.root} --target native")


def check(bundle: Bundle, gpu: Gpu, installed: dict[Flavour, str]) -> Layout:
    return check_plans(bundle, find_plans(bundle, gpu, installed), gpu, installed, Residency.AUTO)


FAULTS = ["damaged", "version", "capability", "memory"]


@pytest.mark.parametrize(
    ("first", "error", "message"),
    [
        ("damaged", BundleError, r"unet_single\.plan was changed"),
        ("version", EngineError, r"built with TensorRT rtx 1\.7\.1\.116 .* exactly that version; installed: rtx 1\.6"),
        ("capability", EngineError, r"do not run on this GPU, NVIDIA A10, of compute capability 9\.0"),
        ("memory", DeviceMemoryError, r"need 14\.00 GiB, staged, and NVIDIA A10 has 2\.50 GiB free"),
    ],
)
def test_of_several_faults_the_first_in_the_order_of_the_checks_is_told(
    bundle: Bundle, first: str, error: type[Exception], message: str
) -> None:
    faults = FAULTS[FAULTS.index(first) :]
    if "damaged" in faults:
        (bundle.root / "plans/sm86/unet_single.plan").write_bytes(b"sm86 unet_singlE")
    gpu = a10(
        compute_capability=(9, 0) if "capability" in faults else (8, 6),
        free_bytes=5 * GIB // 2,
    )
    with pytest.raises(error, match=message) as raised:
        check(bundle, gpu, {Flavour.RTX: OLDER if "version" in faults else VERSION})
    assert type(raised.value) is error


def test_whole_plans_for_this_gpu_and_version_pass(bundle: Bundle) -> None:
    assert check(bundle, a10(), {Flavour.RTX: VERSION}) == RESIDENT


@pytest.mark.parametrize("name", list(graph_names()))
@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_every_plan_is_compared_with_its_hash(bundle: Bundle, name: GraphName, damage: str) -> None:
    path = bundle.root / f"plans/sm86/{name.value}.plan"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match=rf"{name.value}\.plan (was|is) {damage}"):
        check(bundle, a10(), {Flavour.RTX: VERSION})


def test_only_the_plans_that_would_run_are_compared_with_their_hashes(nano_bundle: Bundle, tmp_path: Path) -> None:
    plans = plan_records(tmp_path, "sm90", compute_capabilities=("9.0",)) + plan_records(tmp_path, "sm86")
    bundle = with_plans(nano_bundle, tmp_path, *plans)
    (tmp_path / "plans/sm90/unet_cfg.plan").unlink()
    assert check(bundle, a10(), {Flavour.RTX: VERSION}) == RESIDENT


def test_a_damaged_plan_names_the_command_that_builds_it(bundle: Bundle) -> None:
    (bundle.root / "plans/sm86/unet_single.plan").unlink()
    with pytest.raises(BundleError, match=build_command(bundle)):
        check(bundle, a10(), {Flavour.RTX: VERSION})


@pytest.mark.parametrize(
    ("gpu", "version"),
    [
        pytest.param(a10(), OLDER, id="version"),
        pytest.param(a10(compute_capability=(9, 0)), VERSION, id="capability"),
        pytest.param(a10(free_bytes=0), VERSION, id="memory"),
    ],
)
def test_a_failure_names_the_command_that_builds_plans_here(bundle: Bundle, gpu: Gpu, version: str) -> None:
    with pytest.raises(EngineError, match=build_command(bundle)):
        check(bundle, gpu, {Flavour.RTX: version})


@pytest.mark.parametrize(
    ("installed", "have"),
    [
        ({}, "installed: none"),
        ({Flavour.CLASSIC: VERSION}, r"installed: classic 1\.7\.1\.116"),
        ({Flavour.RTX: "1.7.1"}, r"installed: rtx 1\.7\.1\."),
        ({Flavour.RTX: "1.7.1.1160"}, r"installed: rtx 1\.7\.1\.1160"),
    ],
)
def test_a_version_is_right_only_if_flavour_and_all_its_digits_are(
    bundle: Bundle, installed: dict[Flavour, str], have: str
) -> None:
    plans = find_plans(bundle, a10(), installed)
    reason = why_not(bundle, plans, a10(), installed)
    assert reason is not None
    assert re.search(have, reason)
    assert "plans/sm86 (compute capability 8.6)" in reason


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (6, 8), (0, 86)])
def test_a_gpu_of_another_compute_capability_is_refused(bundle: Bundle, capability: tuple[int, int]) -> None:
    gpu = a10(compute_capability=capability)
    reason = why_not(bundle, find_plans(bundle, gpu, {Flavour.RTX: VERSION}), gpu, {Flavour.RTX: VERSION})
    assert reason is not None
    assert f"of compute capability {capability[0]}.{capability[1]}" in reason


def test_plans_for_several_compute_capabilities_run_on_each(nano_bundle: Bundle, tmp_path: Path) -> None:
    plans = plan_records(tmp_path, "both", compute_capabilities=("8.6", "8.9"))
    bundle = with_plans(nano_bundle, tmp_path, *plans)
    for capability in ((8, 6), (8, 9)):
        assert check(bundle, a10(compute_capability=capability), {Flavour.RTX: VERSION}) == RESIDENT


Folder = tuple[str, str, str]  # flavour, version, compute capability
HERE = {Flavour.RTX: VERSION}


@pytest.mark.parametrize(
    ("folders", "installed", "expected"),
    [
        pytest.param([("rtx", VERSION, "8.9"), ("rtx", VERSION, "8.6")], HERE, 1, id="this gpu"),
        pytest.param([("rtx", OLDER, "8.6"), ("rtx", VERSION, "8.6")], HERE, 1, id="this version"),
        pytest.param([("classic", VERSION, "8.6"), ("rtx", VERSION, "8.6")], HERE, 1, id="this flavour"),
        pytest.param([("rtx", VERSION, "8.9"), ("rtx", OLDER, "8.6")], HERE, 1, id="gpu before version"),
        pytest.param(
            [("rtx", OLDER, "8.9"), ("rtx", VERSION, "8.9"), ("rtx", OLDER, "8.6"), ("rtx", VERSION, "8.6")],
            HERE,
            3,
            id="both of four",
        ),
        pytest.param([("rtx", VERSION, "8.6"), ("rtx", VERSION, "8.6")], HERE, 0, id="the first of equals"),
        pytest.param([("rtx", OLDER, "9.0"), ("rtx", OLDER, "8.9")], HERE, 0, id="the first of equally wrong ones"),
        pytest.param([("rtx", OLDER, "8.6"), ("classic", "10.9", "8.6")], {}, 0, id="nothing installed"),
        pytest.param(
            [("rtx", OLDER, "8.6"), ("classic", "10.9", "8.6")],
            {Flavour.RTX: VERSION, Flavour.CLASSIC: "10.9"},
            1,
            id="both installed",
        ),
        pytest.param([("cutlass", "1", "8.6"), ("rtx", VERSION, "8.6")], HERE, 1, id="beside an unknown flavour"),
    ],
)
def test_plans_for_this_gpu_and_the_installed_tensorrt_are_found(
    nano_bundle: Bundle, tmp_path: Path, folders: list[Folder], installed: dict[Flavour, str], expected: int
) -> None:
    plans: tuple[PlanRecord, ...] = ()
    for index, (flavour, version, capability) in enumerate(folders):
        plans += plan_records(
            tmp_path, f"number{index}", flavour=flavour, version=version, compute_capabilities=(capability,)
        )
    bundle = with_plans(nano_bundle, tmp_path, *plans)
    assert find_plans(bundle, a10(), installed).folder == f"plans/number{expected}"


@pytest.mark.parametrize("missing", list(graph_names()))
def test_a_set_that_lacks_a_plan_is_none(nano_bundle: Bundle, tmp_path: Path, missing: GraphName) -> None:
    part = tuple(plan for plan in plan_records(tmp_path, "part") if plan.graph != missing)
    with pytest.raises(EngineError, match=f"has no plans.*{build_command(Bundle(tmp_path, nano_bundle.manifest))}"):
        find_plans(with_plans(nano_bundle, tmp_path, *part), a10(), HERE)
    elsewhere = plan_records(tmp_path, "whole", compute_capabilities=("9.0",))
    assert find_plans(with_plans(nano_bundle, tmp_path, *part, *elsewhere), a10(), HERE).folder == "plans/whole"


def test_a_bundle_without_plans_is_told_how_to_build_them(nano_bundle: Bundle) -> None:
    with pytest.raises(EngineError, match=f"has no plans. Build them: {build_command(nano_bundle)}"):
        find_plans(nano_bundle, a10(), HERE)
    assert flavours_of(nano_bundle, a10()) == [None]


def test_the_flavours_of_plans_for_this_gpu_come_first_and_each_once(nano_bundle: Bundle, tmp_path: Path) -> None:
    plans = (
        *plan_records(tmp_path, "a", compute_capabilities=("9.0",)),
        *plan_records(tmp_path, "b", flavour="cutlass"),
        *plan_records(tmp_path, "c", flavour="classic"),
        *plan_records(tmp_path, "d", flavour="classic", version="10.9"),
    )
    bundle = with_plans(nano_bundle, tmp_path, *plans)
    assert flavours_of(bundle, a10()) == [None, Flavour.CLASSIC, Flavour.RTX]
    assert flavours_of(bundle, a10(compute_capability=(9, 0))) == [Flavour.RTX, None, Flavour.CLASSIC]


@pytest.mark.parametrize("flavour", ["cutlass", "", "RTX", "rtx "])
def test_a_flavour_that_is_not_known_is_told_by_its_name(nano_bundle: Bundle, tmp_path: Path, flavour: str) -> None:
    bundle = with_plans(nano_bundle, tmp_path, *plan_records(tmp_path, "a", flavour=flavour))
    assert flavours_of(bundle, a10()) == [None]
    plans = find_plans(bundle, a10(), HERE)
    assert f"built with TensorRT {flavour} {VERSION}" in (why_not(bundle, plans, a10(), HERE) or "")
    with pytest.raises(EngineError, match=build_command(bundle)):
        check_plans(bundle, plans, a10(), HERE, Residency.AUTO)


@pytest.mark.parametrize(
    ("residency", "free_bytes", "expected"),
    [
        (Residency.AUTO, 100 * GIB, RESIDENT),
        (Residency.AUTO, NEED_RESIDENT, RESIDENT),
        (Residency.AUTO, NEED_RESIDENT - 1, TWO_GROUPS),
        (Residency.AUTO, NEED_TWO_GROUPS, TWO_GROUPS),
        (Residency.AUTO, NEED_TWO_GROUPS - 1, THREE_GROUPS),
        (Residency.AUTO, NEED_THREE_GROUPS, THREE_GROUPS),
        (Residency.RESIDENT, NEED_RESIDENT, RESIDENT),
        (Residency.STAGED, 100 * GIB, TWO_GROUPS),
        (Residency.STAGED, NEED_TWO_GROUPS, TWO_GROUPS),
        (Residency.STAGED, NEED_TWO_GROUPS - 1, THREE_GROUPS),
        (Residency.STAGED, NEED_THREE_GROUPS, THREE_GROUPS),
    ],
)
def test_the_fastest_layout_that_fits_to_the_byte_is_taken(
    bundle: Bundle, residency: Residency, free_bytes: int, expected: Layout
) -> None:
    (plans,) = bundle.manifest.plan_sets()
    assert choose_layout(bundle, plans, a10(free_bytes), residency) == expected


@pytest.mark.parametrize(
    ("residency", "free_bytes", "message"),
    [
        (Residency.AUTO, NEED_THREE_GROUPS - 1, r"need 14\.00 GiB, staged, and NVIDIA A10 has 14\.00 GiB free\. End"),
        (Residency.STAGED, NEED_THREE_GROUPS - 1, r"need 14\.00 GiB, staged, .* has 14\.00 GiB free\. End"),
        (Residency.STAGED, 0, r"need 14\.00 GiB, staged, and NVIDIA A10 has 0\.00 GiB free\. End"),
        (Residency.RESIDENT, NEED_RESIDENT - 1, r"need 23\.00 GiB, resident, .* 23\.00 GiB free\. Use --residency st"),
        (
            Residency.RESIDENT,
            19 * GIB + GIB // 4,
            r"need 23\.00 GiB, resident, .* 19\.25 GiB free\. Use --residency st",
        ),
    ],
)
def test_where_no_layout_fits_the_error_gives_both_figures(
    bundle: Bundle, residency: Residency, free_bytes: int, message: str
) -> None:
    (plans,) = bundle.manifest.plan_sets()
    with pytest.raises(DeviceMemoryError, match=message):
        choose_layout(bundle, plans, a10(free_bytes), residency)
