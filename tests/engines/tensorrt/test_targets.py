"""Targets: product names and compute capabilities."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vcut_trt.engines.tensorrt import targets as targets_module
from vcut_trt.engines.tensorrt.targets import (
    PRODUCTS,
    TargetKind,
    default_targets,
    parse_target,
    parse_targets,
    sm_name,
)
from vcut_trt.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "capability"), [("a10", (8, 6)), ("l4", (8, 9)), ("h100", (9, 0)), ("t4", (7, 5)), ("rtx5090", (12, 0))]
)
def test_products_have_nvidias_compute_capability(name: str, capability: tuple[int, int]) -> None:
    for spelling in (name, name.upper()):
        target = parse_target(spelling)
        assert (target.name, target.kind, target.compute_capability) == (name, TargetKind.NAMED, capability)


@given(st.integers(1, 99), st.integers(0, 9))
def test_a_compute_capability_survives_its_name(major: int, minor: int) -> None:
    target = parse_target(sm_name((major, minor)))
    assert (target.kind, target.compute_capability) == (TargetKind.NAMED, (major, minor))


@given(st.text(max_size=8).filter(lambda s: s.lower() not in {*PRODUCTS, "native", "cpu"} and s[:2].lower() != "sm"))
def test_an_unknown_target_is_told_what_there_is(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown target .*; use .*a10.*smNN, native, cpu"):
        parse_target(name)


@pytest.mark.parametrize("name", ["sm", "sm8", "sm8.6", "sm1234", "sm86 ", " sm86", "smab"])
def test_a_malformed_compute_capability_is_unknown(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown target"):
        parse_target(name)


def test_targets_keep_their_order_and_lose_repetitions() -> None:
    assert [target.name for target in parse_targets(["l4", "a10", "L4"])] == ["l4", "a10"]


def test_cpu_stands_alone() -> None:
    assert [target.kind for target in parse_targets(["cpu", "cpu"])] == [TargetKind.CPU]
    with pytest.raises(ConfigError, match="--target cpu means ONNX only"):
        parse_targets(["cpu", "a10"])


@pytest.mark.parametrize(("has_gpu", "expected"), [(True, ("native",)), (False, ("a10", "l4"))])
def test_the_default_depends_on_the_gpu(
    monkeypatch: pytest.MonkeyPatch, has_gpu: bool, expected: tuple[str, ...]
) -> None:
    monkeypatch.setattr(targets_module, "has_cuda_gpu", lambda: has_gpu)
    assert default_targets() == expected
