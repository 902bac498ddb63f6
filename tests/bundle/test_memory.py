"""What a bundle's plans need on a GPU, against sums made by hand, and which layout comes after which."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.tensorrt.test_plan_choice import TENSOR_BYTES, plan_records, with_plans
from tests.runtime.test_step_plans import cached_bundle
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.bundle.manifest import PlanRecord
from vcut_trt.bundle.memory import CUDA_CONTEXT_BYTES, GIB, MemoryNeed, memory_need, memory_needs, tensor_bytes
from vcut_trt.spec.graphs import graph_names
from vcut_trt.spec.interface import GraphName
from vcut_trt.spec.residency import LAYOUTS, Layout, Residency, layouts, leaner_layout

RESIDENT, TWO_GROUPS, THREE_GROUPS = LAYOUTS

Bytes = dict[str, int]
UNET_HEAVY = {"image_encoder": 3, "vae_encoder": 1, "unet_cfg": 6, "unet_single": 5, "vae_decoder": 2}
DECODER_HEAVY = {"image_encoder": 3, "vae_encoder": 1, "unet_cfg": 6, "unet_single": 5, "vae_decoder": 40}
ENCODER_HEAVY = {"image_encoder": 30, "vae_encoder": 10, "unet_cfg": 6, "unet_single": 5, "vae_decoder": 2}
SCRATCH = {"image_encoder": 1, "vae_encoder": 4, "unet_cfg": 2, "unet_single": 1, "vae_decoder": 5}


def sized(root: Path, folder: str, weights: Bytes, scratch: Bytes) -> tuple[PlanRecord, ...]:
    return tuple(
        plan.model_copy(
            update={"weights_bytes": weights[plan.graph.value], "activation_bytes": scratch[plan.graph.value]}
        )
        for plan in plan_records(root, folder)
    )


@pytest.mark.parametrize(
    ("weights", "layout", "loaded", "scratch"),
    [
        (UNET_HEAVY, RESIDENT, 3 + 1 + 6 + 5 + 2, 5),
        (UNET_HEAVY, TWO_GROUPS, 6 + 5 + 2, 5),
        (UNET_HEAVY, THREE_GROUPS, 6 + 5, 2),
        (DECODER_HEAVY, RESIDENT, 3 + 1 + 6 + 5 + 40, 5),
        (DECODER_HEAVY, TWO_GROUPS, 6 + 5 + 40, 5),
        (DECODER_HEAVY, THREE_GROUPS, 40, 5),
        (ENCODER_HEAVY, RESIDENT, 30 + 10 + 6 + 5 + 2, 5),
        (ENCODER_HEAVY, TWO_GROUPS, 30 + 10, 4),
        (ENCODER_HEAVY, THREE_GROUPS, 30 + 10, 4),
    ],
)
def test_a_layouts_need_is_that_of_its_fullest_group(
    nano_bundle: Bundle, tmp_path: Path, weights: Bytes, layout: Layout, loaded: int, scratch: int
) -> None:
    bundle = with_plans(nano_bundle, tmp_path, *sized(tmp_path, "a", weights, SCRATCH))
    (plans,) = bundle.manifest.plan_sets()
    need = memory_need(bundle.manifest, plans, layout)
    assert need == MemoryNeed(
        folder="plans/a",
        compute_capabilities=("8.6",),
        weights_bytes=loaded,
        scratch_bytes=scratch,
        tensor_bytes=TENSOR_BYTES,
    )
    assert need.engine_bytes == loaded + scratch + TENSOR_BYTES
    assert need.total_bytes == need.engine_bytes + CUDA_CONTEXT_BYTES


def test_the_fullest_group_is_the_one_with_the_largest_sum_not_the_largest_weights(
    nano_bundle: Bundle, tmp_path: Path
) -> None:
    scratch = {**SCRATCH, "vae_decoder": 100}
    bundle = with_plans(nano_bundle, tmp_path, *sized(tmp_path, "a", UNET_HEAVY, scratch))
    need = memory_need(bundle.manifest, bundle.manifest.plan_sets()[0], THREE_GROUPS)
    assert (need.weights_bytes, need.scratch_bytes) == (2, 100)


def test_the_needs_that_inspect_shows_are_all_resident_in_the_manifests_order(
    nano_bundle: Bundle, tmp_path: Path
) -> None:
    first = sized(tmp_path, "z", UNET_HEAVY, SCRATCH)
    second = sized(tmp_path, "a", ENCODER_HEAVY, SCRATCH)
    needs = memory_needs(with_plans(nano_bundle, tmp_path, *first, *second).manifest)
    assert [(need.folder, need.weights_bytes, need.scratch_bytes, need.tensor_bytes) for need in needs] == [
        ("plans/z", 17, 5, TENSOR_BYTES),
        ("plans/a", 53, 5, TENSOR_BYTES),
    ]


def test_what_is_spare_counts_the_cuda_context(nano_bundle: Bundle, tmp_path: Path) -> None:
    (need,) = memory_needs(with_plans(nano_bundle, tmp_path, *sized(tmp_path, "a", UNET_HEAVY, SCRATCH)).manifest)
    assert need.spare_bytes(GIB) == GIB - CUDA_CONTEXT_BYTES - 17 - 5 - TENSOR_BYTES
    assert need.spare_bytes(need.total_bytes) == 0
    assert need.spare_bytes(0) < 0


def test_what_steps_share_is_counted_as_often_as_it_is_allocated(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The tensors of a bundle with a step cache, by hand, in fp32: frames 6, latents 8 × 16, projection ΣC."""
    manifest = cached_bundle(tmp_path_factory, 0).manifest
    latents, plane = 4 * 6 * 4 * 8 * 16, 4 * 4 * 8 * 16
    columns = 4 * manifest.graphs[GraphName.IMAGE_ENCODER].outputs[0].shape[-1]
    loop = 2 * latents + 2 * latents + latents  # both ways, their histories, the residual
    constants = plane + 2 * columns + columns + 4 * 3 + 4 * 8 + 4 * 6
    feature = 4 * (2 * 6) * manifest.graphs[GraphName.UNET_CFG].outputs[-1].shape[1] * 8 * 16
    image = 4 * 3 * 224 * 224 + 2 * columns + 4 * 3 * 64 * 128 + plane
    frames = 4 * 3 * 4 * 8 * 16 + 4 * 3 * 3 * 64 * 128
    assert tensor_bytes(manifest) == loop + constants + feature + image + frames


REST = GraphName.VAE_DECODER_REST


def test_the_decoder_of_a_shorter_last_chunk_is_counted_and_goes_with_the_other(
    paper_bundle: Bundle, tmp_path: Path
) -> None:
    (decoder,) = (plan for plan in plan_records(tmp_path, "a") if plan.graph == GraphName.VAE_DECODER)
    rest = decoder.model_copy(update={"graph": REST, "weights_bytes": 2, "activation_bytes": 1})
    plans = (*sized(tmp_path, "a", UNET_HEAVY, SCRATCH), rest)
    manifest = with_plans(paper_bundle, tmp_path, *plans).manifest
    assert [need.weights_bytes for need in memory_needs(manifest)] == [17 + 2]
    allowed = layouts(Residency.STAGED, tuple(manifest.graphs))
    needs = [memory_need(manifest, manifest.plan_sets()[0], layout).weights_bytes for layout in allowed]
    assert needs == [6 + 5 + 2 + 2, 6 + 5]
    assert [layout.groups[-1][-2:] for layout in allowed] == [(GraphName.VAE_DECODER, REST)] * 2
    assert allowed[1] == leaner_layout(allowed[0], Residency.AUTO)
    assert allowed[1].decoders == (GraphName.VAE_DECODER, REST)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_loads_each_graph_in_exactly_one_group(layout: Layout) -> None:
    loaded = [name for group in layout.groups for name in group]
    assert sorted(loaded) == sorted(graph_names())


@pytest.mark.parametrize(
    ("residency", "expected"),
    [
        (Residency.AUTO, (RESIDENT, TWO_GROUPS, THREE_GROUPS)),
        (Residency.RESIDENT, (RESIDENT,)),
        (Residency.STAGED, (TWO_GROUPS, THREE_GROUPS)),
    ],
)
def test_a_residency_allows_its_own_layouts_from_the_fastest(
    residency: Residency, expected: tuple[Layout, ...]
) -> None:
    assert layouts(residency) == expected
    assert [len(layout.groups) for layout in LAYOUTS] == [1, 2, 3]


@pytest.mark.parametrize(
    ("layout", "residency", "expected"),
    [
        (RESIDENT, Residency.AUTO, TWO_GROUPS),
        (TWO_GROUPS, Residency.AUTO, THREE_GROUPS),
        (THREE_GROUPS, Residency.AUTO, None),
        (RESIDENT, Residency.RESIDENT, None),
        (TWO_GROUPS, Residency.STAGED, THREE_GROUPS),
        (THREE_GROUPS, Residency.STAGED, None),
    ],
)
def test_the_next_leaner_layout_stays_within_what_was_allowed(
    layout: Layout, residency: Residency, expected: Layout | None
) -> None:
    assert leaner_layout(layout, residency) == expected
