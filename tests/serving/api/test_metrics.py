"""What Prometheus is told: counters that are there from the start, and every refusal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.serving.app import STEPS, PictureFakeWorker, application, completed, metrics, upload
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.serving.api.keys import add_key
from vcut_trt.serving.jobs.jobs import ErrorCode
from vcut_trt.serving.jobs.limits import Limits
from vcut_trt.serving.worker.messages import Made
from vcut_trt.serving.worker.protocol import JobFailedError

STAGES = ("semantic binding", "quality improvement")


@pytest.fixture
def client(nano_bundle: Bundle, tmp_path: Path) -> Iterator[TestClient]:
    with application(nano_bundle, tmp_path / "data") as (made, service):
        service.wait_until_started()
        yield made


def test_what_can_be_counted_is_there_from_the_start(client: TestClient) -> None:
    values = metrics(client)
    for outcome in ("completed", "failed", "cancelled"):
        assert values["vcut_jobs_total", (outcome,)] == 0
    for reason in ("lost", "broken", "out of memory"):
        assert values["vcut_worker_restarts_total", (reason,)] == 0
    for reason in ("queue_full", "too_many_jobs", "invalid_api_key", "too_large", "invalid_value", "no_space"):
        assert values["vcut_refused_total", (reason,)] == 0
    for stage in (*STAGES, "decode", "encode"):
        assert values["vcut_stage_seconds_count", (stage,)] == 0
    for stage in STAGES:
        assert values["vcut_step_seconds_count", (stage,)] == 0


def test_nothing_that_happens_adds_a_counter(nano_bundle: Bundle, tmp_path: Path) -> None:
    """A rate over a counter that appears with its first event misses that event."""
    with application(nano_bundle, tmp_path / "data", Timed()) as (client, service):
        service.wait_until_started()
        before = {key for key in metrics(client) if not key[0].endswith(("_created", "_bucket"))}
        completed(client)
        for path in ("/nothing", "/v1/videos/video_x", "/v1/videos?limit=0", "/v1/videos/sync"):
            client.get(path)
        client.post("/v1/videos", content=b"x")
        after = {key for key in metrics(client) if not key[0].endswith(("_created", "_bucket"))}
    assert after - before == set()


class Timed(PictureFakeWorker):
    """Tells the seconds of every stage, and has no GPU."""

    def make(self, order: Any) -> Any:
        for event in super().make(order):
            timings = dict.fromkeys((*STAGES, "decode", "encode"), 0.1)
            yield (
                event.model_copy(update={"timings": timings, "device_bytes": None})
                if isinstance(event, Made)
                else event
            )


def test_a_machine_without_a_gpu_tells_of_no_gpu_memory(
    nano_bundle: Bundle, tmp_path: Path, client: TestClient
) -> None:
    with application(nano_bundle, tmp_path / "cpu", Timed()) as (bare, _):
        completed(bare)
        assert not [name for name, _ in metrics(bare) if "device" in name]
    completed(client)  # whose worker tells of 7 bytes
    assert metrics(client)["vcut_device_memory_bytes", ()] == 7


def test_every_refusal_is_counted_once(nano_bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = {"Authorization": f"Bearer {add_key(file, 'ann')}"}
    limits = Limits(upload_bytes=20_000)
    with application(nano_bundle, tmp_path / "data", keys=file, limits=limits) as (client, service):

        def post(expected: int, *, headers: dict[str, str] = key, **options: Any) -> None:
            assert client.post("/v1/videos", headers=headers, **options).status_code == expected

        post(401, headers={}, files=upload(), data=STEPS)
        post(401, headers={"Authorization": "Bearer x"}, files=upload(), data=STEPS)
        post(403, headers={**key, "Origin": "null"}, files=upload(), data=STEPS)
        post(422, files=upload(), data={"seed": "x"})
        post(413, files=upload(bytes(200_000)), data=STEPS)  # by the length that it declares
        post(415, content=b"x", headers={**key, "Content-Type": "text/plain"})
        post(415, files=upload(b"no picture"), data=STEPS)
        service.is_draining = True
        post(503, files=upload(), data=STEPS)
        assert client.get(f"/v1/videos/video_{'0' * 32}", headers=key).status_code == 404
        values = metrics(client, headers=key)
    assert {labels[0]: value for (name, labels), value in values.items() if name == "vcut_refused_total" and value} == {
        "invalid_api_key": 2,
        "forbidden": 1,
        "invalid_value": 1,
        "too_large": 1,
        "unsupported_media_type": 2,
        "unavailable": 1,
        "not_found": 1,
    }


def test_a_job_that_fails_is_no_refusal(nano_bundle: Bundle, tmp_path: Path) -> None:
    with application(nano_bundle, tmp_path / "data", PictureFakeWorker(_fails)) as (client, _):
        assert client.post("/v1/videos/sync", files=upload(), data=STEPS).status_code == 500
        assert not [key for key, value in metrics(client).items() if key[0] == "vcut_refused_total" and value]


def _fails(_order: Any, _step: int) -> None:
    raise JobFailedError(ErrorCode.NOT_FINITE, "it overflowed")
