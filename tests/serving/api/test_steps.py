"""Steps in the API: presets and solvers are taken in, and what the bundle cannot run is refused at the door."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.runtime.test_step_plans import cached_bundle
from tests.serving.api.test_routes import submit, upload
from tests.serving.app import application
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.spec.presets import Preset


@pytest.fixture
def client(nano_bundle: Bundle, tmp_path: Path) -> Iterator[TestClient]:
    with application(nano_bundle, tmp_path / "data") as (made, _):
        yield made


def test_the_server_tells_the_presets_that_its_bundle_can_run(
    client: TestClient, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    assert client.get("/v1/server").json()["presets"] == ["stock", "fast", "faster"]
    with application(cached_bundle(tmp_path_factory, 0), tmp_path / "cached") as (cached, _):
        assert cached.get("/v1/server").json()["presets"] == [preset.value for preset in Preset]


@pytest.mark.parametrize("preset", ["stock", "fast", "faster"])
def test_what_it_tells_it_takes(client: TestClient, preset: str) -> None:
    response = client.post("/v1/videos", files=upload(), data={"preset": preset})
    assert response.status_code == 202, response.text
    fields = Preset(preset).fields
    assert (response.json()["num_inference_steps"], response.json()["cut_step"]) == (
        fields["num_inference_steps"],
        fields["cut_step"],
    )


def test_a_field_goes_before_the_preset(client: TestClient) -> None:
    job = submit(client, {"preset": "faster"})  # with a number of steps beside it
    assert (job["num_inference_steps"], job["cut_step"]) == (4, 5)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"preset": "fastest"}, "shallow steps, and the bundle none"),
        ({"shallow_steps": "2"}, "shallow steps, and the bundle none"),
        ({"preset": "slow"}, "preset: "),
        ({"solver": "heun"}, "solver: "),
        ({"sigmas": "700,x,0"}, "it is made of numbers"),
        ({"sigmas": "9,10,0", "solver": "ab2"}, "do not fall"),
        ({"sigmas": "7,1,0", "num_inference_steps": "5"}, "sigmas are 3 numbers for 5 steps"),
        ({"after_cut": "never"}, "after_cut: "),
    ],
)
def test_steps_that_cannot_be_are_refused_at_the_door(client: TestClient, fields: dict[str, str], reason: str) -> None:
    response = client.post("/v1/videos", files=upload(), data=fields)
    assert response.status_code == 422
    assert reason in response.json()["error"]["message"]


def test_sigmas_decide_the_number_of_steps(client: TestClient) -> None:
    response = client.post("/v1/videos", files=upload(), data={"sigmas": "700, 20,1,0", "solver": "dpmpp_2m"})
    assert response.status_code == 202, response.text
    assert response.json()["num_inference_steps"] == 3
