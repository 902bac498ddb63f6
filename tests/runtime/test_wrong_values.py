"""Wrong values are ValueErrors too, as code that was written for diffusers expects; with the commands' exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.runtime.test_guard import pipeline_of
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.errors import ConfigError, ImageError
from vcut_trt.measure.samples import sample_images
from vcut_trt.runtime.pipeline import VCutPipeline


@pytest.fixture
def pipeline(nano_bundle: Bundle) -> Iterator[VCutPipeline]:
    with pipeline_of(nano_bundle) as opened:
        yield opened


@pytest.mark.parametrize(
    "arguments", [{"height": 32}, {"num_inference_steps": 0}, {"fps": 0}, {"max_guidance_scale": float("inf")}], ids=str
)
def test_wrong_values_are_value_errors_as_in_diffusers(pipeline: VCutPipeline, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments)).removeprefix("max_").split("_")[0]) as error:
        pipeline(sample_images(1)[0], **arguments)
    assert isinstance(error.value, ConfigError)
    assert error.value.exit_code == 2


def test_what_is_no_image_is_a_value_error_too(pipeline: VCutPipeline) -> None:
    with pytest.raises(ValueError, match="str came") as error:
        pipeline("photo.png")  # type: ignore[arg-type]
    assert isinstance(error.value, ImageError)
    assert error.value.exit_code == 1
