"""Where the steps stand, against diffusers' own numbers."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from diffusers.schedulers import AysSchedules

from vcut_trt.errors import ConfigError
from vcut_trt.spec.clip import ClipDefaults, ClipSettings
from vcut_trt.spec.grids import Grid


def test_ten_steps_of_ays_are_the_published_ones() -> None:
    sigmas = ClipSettings(num_inference_steps=10, cut_step=11, grid=Grid.AYS).step_sigmas
    assert sigmas == pytest.approx(AysSchedules["StableDiffusionVideoSigmas"], rel=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 5, 7, 10, 20, 25, 1000])
@pytest.mark.parametrize("grid", [Grid.AYS, Grid.SGM_UNIFORM])
def test_any_number_of_steps_falls_from_700_to_0(grid: Grid, steps: int) -> None:
    sigmas = grid.sigmas(steps)
    assert sigmas is not None
    assert len(sigmas) == steps + 1
    assert (sigmas[0], sigmas[-1]) == (700, 0)
    assert list(sigmas) == sorted(set(sigmas), reverse=True)


def test_twice_the_steps_of_ays_keep_every_second_sigma_and_stand_between_them() -> None:
    ten, twenty = Grid.AYS.sigmas(10), Grid.AYS.sigmas(20)
    assert ten is not None
    assert twenty is not None
    assert twenty[::2] == pytest.approx(ten)
    assert twenty[3] == pytest.approx(math.sqrt(54.5 * 15.886))


def test_sgm_uniform_is_even_in_the_logarithm() -> None:
    sigmas = Grid.SGM_UNIFORM.sigmas(8)
    assert sigmas is not None
    ratios = [low / high for high, low in pairwise(sigmas[:-1])]
    assert ratios == pytest.approx([(0.002 / 700) ** (1 / 8)] * 7)


def test_karras_is_left_to_the_scheduler() -> None:
    assert Grid.KARRAS.sigmas(25) is None
    assert ClipSettings(num_inference_steps=25, cut_step=17).step_sigmas is None


@pytest.mark.parametrize("grid", list(Grid))
def test_no_steps_are_refused(grid: Grid) -> None:
    with pytest.raises(ConfigError, match="num_inference_steps is 0"):
        grid.sigmas(0)


def test_a_grid_that_is_not_known_is_refused() -> None:
    with pytest.raises(ConfigError, match="grid is 'even'; use karras, ays, sgm_uniform"):
        ClipSettings.of({"grid": "even"}, ClipDefaults())
