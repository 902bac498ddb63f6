"""Shallow steps against DeepCache's own helper, on diffusers' own pipeline: the same steps, the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import NANO_VIDEO
from tests.models import NANO, checkpoint
from tests.parity.stock import parts, stock_pipeline
from vcut_trt.engines.workspace import Workspace
from vcut_trt.measure.samples import sample_images
from vcut_trt.pretrained import PretrainedConfig, pipeline_of
from vcut_trt.spec.choices import CfgMode, CrossAttention
from vcut_trt.spec.precision import Precision
from vcut_trt.spec.step_plan import StepPlan

DeepCache = pytest.importorskip("DeepCache")

STEPS, INTERVAL = 8, 3
CALL: dict[str, Any] = {"num_inference_steps": STEPS, "output_type": "latent", "return_dict": False}
SIZES = {"height": NANO_VIDEO.height, "width": NANO_VIDEO.width, "num_frames": NANO_VIDEO.frames}


@pytest.mark.parametrize("cfg", CfgMode)
def test_every_third_step_whole_is_deepcaches_interval_of_three(cfg: CfgMode) -> None:
    stock = stock_pipeline(parts(checkpoint(), NANO))
    helper = DeepCache.DeepCacheSDHelper(pipe=stock)
    helper.set_params(cache_interval=INTERVAL, cache_branch_id=0)
    helper.enable()
    wanted = stock(sample_images(1), **SIZES, **CALL, generator=torch.Generator().manual_seed(0))
    helper.disable()
    whole = stock(sample_images(1), **SIZES, **CALL, generator=torch.Generator().manual_seed(0))

    config = PretrainedConfig(
        video=NANO_VIDEO, precision=Precision.FP32, cross_attention=CrossAttention.ORIGINAL, cfg=cfg, step_cache=0
    )
    with pipeline_of(checkpoint(), Workspace(torch.device("cpu")), config) as pipeline:
        own = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
        own.set_timesteps(STEPS)
        plan = StepPlan(
            sigmas=tuple(own.sigmas.tolist()),
            cut_step=STEPS + 1,
            shallow_steps=tuple(step for step in range(1, STEPS + 1) if (step - 1) % INTERVAL),
        )
        came = pipeline(sample_images(1), step_plan=plan, **CALL, generator=torch.Generator().manual_seed(0))

    assert isinstance(came, Tensor)
    assert float((came - wanted).norm() / wanted.norm()) < 1e-5
    assert float((whole - wanted).norm() / wanted.norm()) > 1e-3, "the cache shows"
