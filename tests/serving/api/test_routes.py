"""The HTTP API: what clients may send, and what they are told."""

from __future__ import annotations

import json
import sqlite3
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL.PngImagePlugin import PngImageFile

import vcut_trt.serving
from tests.serving.app import STEPS, PictureFakeWorker, application, final, picture, refused, upload
from tests.serving.sample_jobs import files
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.serving.api import routes
from vcut_trt.serving.api.keys import add_key, remove_key
from vcut_trt.serving.app import Doors
from vcut_trt.serving.jobs import job_files
from vcut_trt.serving.jobs.feed import Listener
from vcut_trt.serving.jobs.jobs import JobStatus, Progress
from vcut_trt.serving.jobs.limits import Limits
from vcut_trt.serving.jobs.service import Service
from vcut_trt.serving.worker.messages import Make

PAGE = Path(vcut_trt.serving.__file__).parent / "page"


PATIENCE_SECONDS = 120.0  # a guard against hanging only


class Gate:
    """Holds a worker before a step."""

    def __init__(self, at_step: int = 1) -> None:
        self.worker = PictureFakeWorker(self._before_step)
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self._at_step = at_step

    def _before_step(self, _order: Make, step: int) -> None:
        if step == self._at_step:
            self.reached.set()
            assert self.go_on.wait(PATIENCE_SECONDS)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@contextmanager
def held_application(
    bundle: Bundle, data: Path, gate: Gate, *, limits: Limits | None = None
) -> Iterator[tuple[TestClient, Service]]:
    """An application whose worker waits at the gate, until the application ends at the latest."""
    with application(bundle, data, gate.worker, limits=limits) as running:
        try:
            yield running
        finally:
            gate.go_on.set()


@pytest.fixture
def client(nano_bundle: Bundle, tmp_path: Path) -> Iterator[TestClient]:
    with application(nano_bundle, tmp_path / "data") as (made, _):
        yield made


def submit(client: TestClient, fields: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    response = client.post("/v1/videos", files=upload(), data={**STEPS, **(fields or {})}, **options)
    assert response.status_code == 202, response.text
    answer: dict[str, Any] = response.json()
    return answer


# Jobs


def test_a_job_is_taken_in_watched_and_fetched(client: TestClient) -> None:
    job = submit(client, {"seed": "7", "cut_step": "3"})
    assert job["object"] == "video"
    assert (job["seed"], job["cut_step"], job["num_inference_steps"], job["size"]) == (7, 3, 4, "128x64")
    with client.stream("GET", f"/v1/videos/{job['id']}/events") as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in events.iter_lines() if line]
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    objects = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert names == [seen["status"] for seen in objects]
    assert names[-1] == "completed"
    assert [seen["progress"] for seen in objects] == sorted(seen["progress"] for seen in objects)
    content = client.get(f"/v1/videos/{job['id']}/content")
    assert (content.status_code, content.headers["content-type"]) == (200, "video/mp4")
    assert b"seed=7" in content.content


def test_events_come_step_by_step(nano_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker waits before each step until the event of the one before was sent: what is made tells its end only."""
    sent = [threading.Event() for _ in range(5)]
    heard: dict[Listener, int] = {}
    listen = Listener.next

    async def listen_on(listener: Listener, seconds: float) -> Progress | None:
        sent[heard.get(listener, 0)].set()  # who asks for more has sent what came before
        progress = await listen(listener, seconds)
        heard[listener] = heard.get(listener, 0) if progress is None else progress.step
        return progress

    def before_step(_order: Make, step: int) -> None:
        assert sent[step - 1].wait(PATIENCE_SECONDS)

    monkeypatch.setattr(Listener, "next", listen_on)
    with application(nano_bundle, tmp_path / "data", PictureFakeWorker(before_step)) as (client, _):
        job = submit(client)
        with client.stream("GET", f"/v1/videos/{job['id']}/events") as events:
            objects = [json.loads(line[6:]) for line in events.iter_lines() if line.startswith("data: ")]
    steps = [seen["step"] for seen in objects]
    assert sorted(set(steps)) == [0, 1, 2, 3, 4]
    assert steps == sorted(steps)
    assert objects[-1]["timings"]["ran"] > 0


STAGES = {1: "condition", 2: "semantic binding", 3: "quality improvement", 4: "quality improvement"}


@pytest.mark.parametrize("making", STAGES)
def test_the_stage_is_the_one_that_is_being_made(nano_bundle: Bundle, tmp_path: Path, making: int) -> None:
    gate = Gate(making)
    with application(nano_bundle, tmp_path / "data", gate.worker) as (client, _):
        job = submit(client, {"cut_step": "3"})
        assert gate.reached.wait(PATIENCE_SECONDS)
        now = client.get(f"/v1/videos/{job['id']}").json()
        gate.go_on.set()
        assert (now["status"], now["step"], now["stage"]) == ("in_progress", making - 1, STAGES[making])
        assert final(client, job["id"])["stage"] is None


def test_ranges_of_a_video_are_answered(client: TestClient) -> None:
    name = submit(client)["id"]
    final(client, name)
    whole = client.get(f"/v1/videos/{name}/content").content
    part = client.get(f"/v1/videos/{name}/content", headers={"Range": "bytes=2-5"})
    assert (part.status_code, part.content) == (206, whole[2:6])
    assert part.headers["content-range"] == f"bytes 2-5/{len(whole)}"
    assert client.get(f"/v1/videos/{name}/content", headers={"Range": "bytes=99999-"}).status_code == 416


@pytest.mark.parametrize("seed", [-1, -(2**63), 2**64 - 1])
def test_a_seed_is_what_torch_takes(client: TestClient, seed: int) -> None:
    job = submit(client, {"seed": str(seed)})
    assert job["seed"] == seed
    assert final(client, job["id"])["seed"] == seed  # by way of the database


def test_without_a_seed_one_is_drawn_and_told(client: TestClient) -> None:
    seeds = {submit(client)["seed"] for _ in range(4)}
    assert len(seeds) == 4


@pytest.mark.parametrize("name", ["image", "input_reference"])
def test_other_servers_names_are_understood(client: TestClient, name: str) -> None:
    fields = {"steps": "4", "motion_bucket": "50", "prompt": "a sea", "size": "128x64", "model": "nano", "user": "u"}
    fields["model"] = client.get("/v1/server").json()["model"]
    response = client.post("/v1/videos", files=upload(name=name), data=fields)
    assert response.status_code == 202, response.text
    assert response.json()["motion_bucket_id"] == 50


def test_sync_waits_for_the_video(client: TestClient) -> None:
    response = client.post("/v1/videos/sync", files=upload(), data={**STEPS, "seed": "9"})
    assert (response.status_code, response.headers["content-type"]) == (200, "video/mp4")
    assert b"seed=9" in response.content
    assert client.get(f"/v1/videos/{response.headers['x-video-id']}").json()["status"] == "completed"


def test_sync_tells_of_a_failure(nano_bundle: Bundle, tmp_path: Path) -> None:
    worker = PictureFakeWorker(lambda _order, _step: time.sleep(0.2))  # longer than the job may take
    with application(nano_bundle, tmp_path / "data", worker) as (client, _):
        fields = {**STEPS, "timeout_seconds": "0.1"}
        refused(client.post("/v1/videos/sync", files=upload(), data=fields), 504, "deadline_exceeded")


def test_sync_does_not_outlive_the_engines(nano_bundle: Bundle, tmp_path: Path, gate: Gate) -> None:
    with held_application(nano_bundle, tmp_path / "data", gate) as (client, service):
        submit(client)
        assert gate.reached.wait(PATIENCE_SECONDS)

        def end_with_a_job_in_the_queue() -> None:
            while service.store.count(JobStatus.QUEUED) == 0:
                time.sleep(0.005)
            service.is_draining = True
            for runner in service.runners:
                runner.begin_to_drain()
            gate.go_on.set()

        threading.Thread(target=end_with_a_job_in_the_queue).start()
        refused(client.post("/v1/videos/sync", files=upload(), data=STEPS), 503, "unavailable")
        assert service.store.count(JobStatus.QUEUED) == 1


def test_cancelling_a_queued_job_and_one_at_work_and_deleting_both(
    nano_bundle: Bundle, tmp_path: Path, gate: Gate
) -> None:
    with held_application(nano_bundle, tmp_path / "data", gate) as (client, service):
        at_work = submit(client)["id"]
        assert gate.reached.wait(PATIENCE_SECONDS)
        queued = submit(client)
        assert queued["queue_position"] == 1
        assert client.delete(f"/v1/videos/{queued['id']}").json()["status"] == "cancelled"
        asked = client.delete(f"/v1/videos/{at_work}").json()
        assert (asked["status"], asked["cancel_requested"]) == ("in_progress", True)
        gate.go_on.set()
        assert final(client, at_work)["status"] == "cancelled"
        for name in (at_work, queued["id"]):
            assert client.delete(f"/v1/videos/{name}").json() == {
                "id": name,
                "object": "video.deleted",
                "deleted": True,
            }
            refused(client.get(f"/v1/videos/{name}"), 404, "not_found")
        assert files(service.config.data) == set()


def test_a_video_that_is_not_made_yet_cannot_be_fetched(nano_bundle: Bundle, tmp_path: Path, gate: Gate) -> None:
    with held_application(nano_bundle, tmp_path / "data", gate) as (client, _):
        name = submit(client)["id"]
        refused(client.get(f"/v1/videos/{name}/content"), 409, "not_completed")


def test_jobs_are_listed_a_page_at_a_time(client: TestClient) -> None:
    names = [submit(client)["id"] for _ in range(5)]
    page = client.get("/v1/videos", params={"limit": 2}).json()
    assert ([job["id"] for job in page["data"]], page["has_more"]) == (names[:2:-1], True)
    rest = client.get("/v1/videos", params={"limit": 5, "after": page["last_id"]}).json()
    assert ([job["id"] for job in rest["data"]], rest["has_more"]) == (names[2::-1], False)
    oldest = client.get("/v1/videos", params={"limit": 1, "order": "asc"}).json()
    assert oldest["first_id"] == names[0]
    refused(client.get("/v1/videos", params={"limit": 0}), 422, "invalid_value", "limit")


# Idempotency and limits


def test_a_request_that_is_sent_again_makes_no_second_job(client: TestClient) -> None:
    key = {"Idempotency-Key": "abc"}
    first = submit(client, headers=key)
    again = client.post("/v1/videos", files=upload(), data=STEPS, headers=key)
    assert (again.status_code, again.json()["id"]) == (200, first["id"])
    other = client.post("/v1/videos", files=upload(), data={**STEPS, "seed": "1"}, headers=key)
    refused(other, 422, "idempotency_key_reused", "Idempotency-Key")


def test_an_empty_idempotency_key_is_none(client: TestClient) -> None:
    answer = client.post("/v1/videos", files=upload(), data=STEPS, headers={"Idempotency-Key": ""})
    refused(answer, 422, "invalid_value", "Idempotency-Key")
    assert client.get("/v1/videos").json()["data"] == []


def test_a_full_queue_answers_429_and_when_to_come_back(nano_bundle: Bundle, tmp_path: Path, gate: Gate) -> None:
    limits = Limits(queue_jobs=1)
    with held_application(nano_bundle, tmp_path / "data", gate, limits=limits) as (client, _):
        submit(client)
        assert gate.reached.wait(PATIENCE_SECONDS)
        key = {"Idempotency-Key": "k"}
        queued = submit(client, headers=key)
        full = client.post("/v1/videos", files=upload(), data=STEPS)
        refused(full, 429, "queue_full")
        assert int(full.headers["retry-after"]) >= 1
        assert client.post("/v1/videos", files=upload(), data=STEPS, headers=key).json()["id"] == queued["id"]


def test_a_key_has_a_limit_of_its_own(nano_bundle: Bundle, tmp_path: Path, gate: Gate) -> None:
    limits = Limits(jobs_per_key=1)
    with held_application(nano_bundle, tmp_path / "data", gate, limits=limits) as (client, _):
        submit(client)
        refused(client.post("/v1/videos", files=upload(), data=STEPS), 429, "too_many_jobs")


def test_a_full_disk_is_said_and_nothing_is_taken_in(
    nano_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(_path: Path, _content: bytes) -> None:
        raise OSError(28, "No space left on device")

    with application(nano_bundle, tmp_path / "data") as (client, service):
        monkeypatch.setattr(job_files, "write_durably", no_space)
        refused(client.post("/v1/videos", files=upload(), data=STEPS), 507, "no_space")
        assert client.get("/v1/videos").json()["data"] == []
        monkeypatch.undo()
        assert service.store.count(JobStatus.QUEUED) == 0


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (OSError(28, "No space left on device", "/srv/jobs/inputs/a.png"), 507, "no_space"),
        (OSError(5, "Input/output error", "/srv/jobs/inputs/a.png"), 503, "unavailable"),
        (sqlite3.OperationalError("database or disk is full"), 507, "no_space"),
        (sqlite3.OperationalError("database is locked"), 503, "unavailable"),
        (sqlite3.OperationalError("unable to open database file: /srv/jobs"), 503, "unavailable"),
    ],
)
def test_what_keeps_a_job_from_being_stored_is_told_apart_and_without_paths(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    place = "job_files.write_durably" if isinstance(error, OSError) else "store.JobStore._insert"
    monkeypatch.setattr(f"vcut_trt.serving.jobs.{place}", fails)
    answer = client.post("/v1/videos", files=upload(), data=STEPS)
    assert "/srv" not in refused(answer, status, code)
    assert int(answer.headers["retry-after"]) >= 1


def test_while_draining_nothing_is_taken_in(nano_bundle: Bundle, tmp_path: Path) -> None:
    with application(nano_bundle, tmp_path / "data") as (client, service):
        service.is_draining = True
        refused(client.post("/v1/videos", files=upload(), data=STEPS), 503, "unavailable")
        assert client.get("/readyz").status_code == 503
        assert client.get("/healthz").status_code == 200


# What is sent


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"seed": str(2**64)}, "seed"),
        ({"seed": str(-(2**63) - 1)}, "seed"),
        ({"seed": "1e3"}, "seed"),
        ({"num_inference_steps": "0"}, "num_inference_steps"),
        ({"num_inference_steps": "1001"}, "num_inference_steps"),
        ({"cut_step": "0"}, "cut_step"),
        ({"fps": "0"}, "fps"),
        ({"fps": "241"}, "fps"),
        ({"motion_bucket_id": "-1"}, "motion_bucket_id"),
        ({"noise_aug_strength": "nan"}, "noise_aug_strength"),
        ({"noise_aug_strength": "inf"}, "noise_aug_strength"),
        ({"max_guidance_scale": "1e9"}, "max_guidance_scale"),
        ({"fit": "squash"}, "fit"),
        ({"timeout_seconds": "0"}, "timeout_seconds"),
        ({"size": "1024x576"}, "size"),
        ({"width": "100"}, "width"),
        ({"num_frames": "99"}, "num_frames"),
        ({"model": "other"}, "model"),
        ({"negative_prompt": "ugly"}, "negative_prompt"),
        ({"seconds": "4"}, "seconds"),
        ({"seed": ["1", "2"]}, "seed"),
    ],
)
def test_a_field_that_is_not_usable_is_named(client: TestClient, fields: dict[str, Any], param: str) -> None:
    response = client.post("/v1/videos", files=upload(), data={**STEPS, **fields})
    assert param in refused(response, 422, "invalid_value", param)


def test_fields_that_contradict_each_other_are_refused(client: TestClient) -> None:
    late = client.post("/v1/videos", files=upload(), data={**STEPS, "cut_step": "6"})
    assert "1 … 5" in refused(late, 422, "invalid_value")
    scales = client.post("/v1/videos", files=upload(), data={**STEPS, "min_guidance": "2", "max_guidance": "1"})
    assert "above max_guidance_scale" in refused(scales, 422, "invalid_value")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_these_formats_are_read(client: TestClient, kind: str) -> None:
    assert client.post("/v1/videos", files=upload(picture(kind=kind)), data=STEPS).status_code == 202


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "ICO"])
def test_other_formats_are_not(client: TestClient, kind: str) -> None:
    refused(
        client.post("/v1/videos", files=upload(picture(kind=kind)), data=STEPS), 415, "unsupported_media_type", "image"
    )


@pytest.mark.parametrize(
    "content", [b"", b"x", b"\x89PNG\r\n\x1a\n", b"<svg onload=alert(1)>", b"%!PS-Adobe", b"\0" * 999]
)
def test_what_is_no_picture_is_refused(client: TestClient, content: bytes) -> None:
    response = client.post("/v1/videos", files=upload(content), data=STEPS)
    assert response.status_code in (415, 422), response.text


def test_a_picture_that_is_cut_short_is_refused(client: TestClient) -> None:
    whole = picture(kind="JPEG")
    refused(
        client.post("/v1/videos", files=upload(whole[: len(whole) // 2]), data=STEPS), 422, "invalid_value", "image"
    )


def claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims another size than its pixels have."""
    png = picture()
    header = png[12:16] + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def test_too_many_pixels_are_refused_before_they_are_decoded(
    nano_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits(upload_pixels=100)
    with application(nano_bundle, tmp_path / "data", limits=limits) as (client, _):
        assert "400,000,000" not in refused(
            client.post("/v1/videos", files=upload(picture(11, 10)), data=STEPS), 413, "too_large", "image"
        )
        with monkeypatch.context() as patch:
            patch.setattr(PngImageFile, "load", lambda _image: pytest.fail("it was decoded"))
            assert client.post("/v1/videos", files=upload(claiming(20_000, 20_000)), data=STEPS).status_code == 413
        assert client.post("/v1/videos", files=upload(picture(10, 10)), data=STEPS).status_code == 202


@pytest.mark.parametrize("declares", [True, False])
def test_too_many_bytes_are_refused(nano_bundle: Bundle, tmp_path: Path, declares: bool) -> None:
    limits = Limits(upload_bytes=1000)

    def body() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
        for _ in range(300):
            yield b"x" * 1000

    with application(nano_bundle, tmp_path / "data", limits=limits) as (client, service):
        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        content: Any = b"".join(body()) if declares else body()
        refused(client.post("/v1/videos", content=content, headers=kind), 413, "too_large")
        assert files(service.config.data) == set()


FORM = "multipart/form-data; boundary=b"


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{}", "text/json", 415),
        (b"image=x", "application/x-www-form-urlencoded", 415),
        (b"", "multipart/form-data", 400),
        (b"garbage", FORM, 400),
        (b"--b\r\n\r\n", FORM, 400),
        (b"--b--\r\n", FORM, 422),
        (
            b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
            422,
        ),
    ],
)
def test_a_body_that_is_no_form_is_refused(client: TestClient, body: bytes, kind: str, status: int) -> None:
    response = client.post("/v1/videos", content=body, headers={"Content-Type": kind})
    assert response.status_code == status, response.text
    assert "message" in response.json()["error"]


def test_two_pictures_or_a_file_for_a_number_are_refused(client: TestClient) -> None:
    two = {**upload(), **upload(name="input_reference")}
    assert "2 pictures" in refused(client.post("/v1/videos", files=two, data=STEPS), 422, "invalid_value", "image")
    wrong = {**upload(), "seed": ("seed.txt", b"1", "text/plain")}
    assert client.post("/v1/videos", files=wrong, data=STEPS).status_code in (400, 422)


@pytest.mark.parametrize(
    "name", ["video_x", "..%2f..%2fetc%2fpasswd", "video_" + "0" * 31, "video_" + "0" * 33, "%00", "'; DROP TABLE jobs"]
)
def test_ids_that_are_none_reach_nothing(client: TestClient, name: str) -> None:
    for method, path in (("GET", ""), ("GET", "/content"), ("GET", "/events"), ("DELETE", "")):
        assert client.request(method, f"/v1/videos/{name}{path}").status_code == 404
    assert client.get(f"/v1/videos/video_{'0' * 32}").status_code == 404


# Keys and doors


@pytest.fixture
def keyed(nano_bundle: Bundle, tmp_path: Path) -> Iterator[tuple[TestClient, dict[str, dict[str, str]], Path]]:
    file = tmp_path / "keys.json"
    keys = {name: {"Authorization": f"Bearer {add_key(file, name)}"} for name in ("ann", "bob")}
    with application(nano_bundle, tmp_path / "data", keys=file) as (client, _):
        yield client, keys, file


def test_without_a_key_nobody_gets_in(keyed: tuple[TestClient, dict[str, dict[str, str]], Path]) -> None:
    client, keys, _ = keyed
    name = submit(client, headers=keys["ann"])["id"]
    paths = ["/v1/videos", f"/v1/videos/{name}", f"/v1/videos/{name}/content", f"/v1/videos/{name}/events", "/metrics"]
    wrong = ["", "Bearer", "Bearer ", "Bearer x", "Basic " + keys["ann"]["Authorization"][7:], "Bearer vcut_\u00e9"]
    for path in paths:
        for value in wrong:
            response = client.get(path, headers={"Authorization": value.encode("utf-8")})  # type: ignore[dict-item]
            refused(response, 401, "invalid_api_key")
            assert response.headers["www-authenticate"] == "Bearer"
    refused(client.post("/v1/videos", files=upload(), data=STEPS), 401, "invalid_api_key")
    refused(client.delete(f"/v1/videos/{name}"), 401, "invalid_api_key")
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200


@pytest.mark.parametrize("path", ["/events", ""])
def test_who_waits_is_let_go_when_the_key_is_taken_back(
    nano_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: Gate, path: str
) -> None:
    monkeypatch.setattr(routes, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(routes, "LOOK_OFTEN_SECONDS", 0.01)
    file = tmp_path / "keys.json"
    key = {"Authorization": f"Bearer {add_key(file, 'ann')}"}
    with application(nano_bundle, tmp_path / "data", gate.worker, keys=file) as (client, service):
        answers = []

        def wait() -> None:
            if path:
                name = submit(client, headers=key)["id"]
                answers.append(client.get(f"/v1/videos/{name}{path}", headers=key))
            else:
                answers.append(client.post("/v1/videos/sync", files=upload(), data=STEPS, headers=key))

        waiting = threading.Thread(target=wait)
        waiting.start()
        try:
            assert gate.reached.wait(PATIENCE_SECONDS)
            remove_key(file, "ann")
            waiting.join(PATIENCE_SECONDS)
            assert service.store.count(JobStatus.IN_PROGRESS) == 1
            (answer,) = answers
            if path and answer.status_code == 200:  # it may have been taken back before the first look
                assert '"status":"completed"' not in answer.text
            else:
                refused(answer, 401, "invalid_api_key")
        finally:
            gate.go_on.set()
            waiting.join(PATIENCE_SECONDS)


def test_a_key_made_again_under_the_old_name_sees_nothing_of_it(
    keyed: tuple[TestClient, dict[str, dict[str, str]], Path],
) -> None:
    client, keys, file = keyed
    name = submit(client, headers=keys["ann"])["id"]
    remove_key(file, "ann")
    again = {"Authorization": f"Bearer {add_key(file, 'ann')}"}
    assert client.get("/v1/videos", headers=again).json()["data"] == []
    refused(client.get(f"/v1/videos/{name}", headers=again), 404, "not_found")


def test_a_key_sees_its_own_jobs_only(keyed: tuple[TestClient, dict[str, dict[str, str]], Path]) -> None:
    client, keys, _ = keyed
    name = submit(client, headers=keys["ann"])["id"]
    assert final(client, name, headers=keys["ann"])["status"] == "completed"
    for method, path in (("GET", ""), ("GET", "/content"), ("GET", "/events"), ("DELETE", "")):
        refused(client.request(method, f"/v1/videos/{name}{path}", headers=keys["bob"]), 404, "not_found")
    assert client.get("/v1/videos", headers=keys["bob"]).json()["data"] == []
    refused(client.get("/v1/videos", headers=keys["bob"], params={"after": name}), 404, "not_found")
    same = {**keys["ann"], "Idempotency-Key": "k"}
    anns = submit(client, headers=same)["id"]
    assert submit(client, headers={**keys["bob"], "Idempotency-Key": "k"})["id"] != anns


def test_keys_are_given_and_taken_back_while_the_server_runs(
    keyed: tuple[TestClient, dict[str, dict[str, str]], Path],
) -> None:
    client, keys, file = keyed
    new = {"Authorization": f"Bearer {add_key(file, 'eve')}"}
    assert client.get("/v1/videos", headers=new).status_code == 200
    remove_key(file, "ann")
    assert client.get("/v1/videos", headers=keys["ann"]).status_code == 401
    assert client.get("/v1/videos", headers=keys["bob"]).status_code == 200
    file.write_text("{")
    assert client.get("/v1/videos", headers=keys["bob"]).status_code == 401


def test_pages_of_other_sites_may_not_use_a_server_without_keys(client: TestClient) -> None:
    foreign = {"Origin": "https://evil.example"}
    refused(client.post("/v1/videos", files=upload(), data=STEPS, headers=foreign), 403, "forbidden")
    refused(client.get("/v1/videos", headers=foreign), 403, "forbidden")
    for broken in ("null", "http://[", "http://[::1", "http://a]b", "//", "http://\u00e9.example"):
        origin = {"Origin": broken.encode("latin-1")}
        refused(client.get("/v1/videos", headers=origin), 403, "forbidden")  # type: ignore[arg-type]
    assert client.get("/v1/videos", headers={"Origin": "http://127.0.0.1"}).status_code == 200
    assert "access-control-allow-origin" not in client.get("/healthz", headers=foreign).headers


def test_a_name_that_was_made_to_point_here_is_not_answered(nano_bundle: Bundle, tmp_path: Path) -> None:
    doors = Doors(upload_bytes=1000, allowed_hosts=("127.0.0.1", "localhost"))
    with application(nano_bundle, tmp_path / "data", doors=doors) as (client, _):
        assert client.get("/v1/videos", headers={"Host": "evil.example"}).status_code == 400
        assert client.get("/v1/videos", headers={"Host": "localhost:8000"}).status_code == 200


def test_cors_is_for_the_origins_that_are_named(nano_bundle: Bundle, tmp_path: Path) -> None:
    doors = Doors(upload_bytes=10_000, cors_origins=("https://studio.example",))
    with application(nano_bundle, tmp_path / "data", doors=doors) as (client, _):
        allowed = client.get("/v1/videos", headers={"Origin": "https://studio.example"})
        assert allowed.headers["access-control-allow-origin"] == "https://studio.example"
        assert client.get("/v1/videos", headers={"Origin": "https://evil.example"}).status_code == 403


# Watching


def test_the_page_and_the_documentation_are_served(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    scripts = sorted(path.name for path in PAGE.glob("*.js"))
    assert "app.js" in scripts
    for name in (*scripts, "style.css"):
        file = client.get(f"/{name}")
        assert file.content == (PAGE / name).read_bytes()
        assert file.headers["content-type"].startswith("text/css" if name == "style.css" else "text/javascript")
        for header in ("content-security-policy", "cache-control"):
            assert file.headers[header] == page.headers[header]
    for path in ("/docs", "/redoc", "/docs/oauth2-redirect"):  # scripts of others, on this origin
        assert client.get(path).status_code == 404
    for headers in (page.headers, client.get("/v1/videos").headers, client.get("/nothing").headers):
        assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")


@pytest.mark.parametrize("path", ["/app.py", "/page/app.js", "/%2e%2e/app.py", "/..%2fapp.py", "/../app.py", "/.js"])
def test_nothing_but_the_page_is_served_of_the_package(client: TestClient, path: str) -> None:
    refused(client.get(path), 404, "not_found")


def test_metrics_tell_what_happened(nano_bundle: Bundle, tmp_path: Path) -> None:
    with application(nano_bundle, tmp_path / "data") as (client, service):
        for _ in range(2):
            final(client, submit(client)["id"])
        service._look_after(sweep=True)
        text = client.get("/metrics").text
    assert 'vcut_jobs_total{outcome="completed"} 2.0' in text
    assert 'vcut_jobs_total{outcome="failed"} 0.0' in text
    assert 'vcut_step_seconds_count{stage="semantic binding"}' in text
    assert "vcut_wait_seconds_count 2.0" in text
    assert "vcut_queue_jobs 0.0" in text
    assert "vcut_device_memory_bytes 7.0" in text


def test_readiness_names_the_worker(nano_bundle: Bundle, tmp_path: Path) -> None:
    with application(nano_bundle, tmp_path / "data") as (client, service):
        service.wait_until_started()
        answer = client.get("/readyz").json()
        assert (answer["ready"], answer["workers"][0]["device"]) == (True, "cpu")


def test_a_bundle_of_several_videos_is_refused(nano_bundle: Bundle, tmp_path: Path) -> None:
    from dataclasses import replace

    from vcut_trt.errors import ServingError
    from vcut_trt.serving.jobs.service import ServiceConfig

    video = replace(nano_bundle.manifest.video, videos=2)
    two = Bundle(nano_bundle.root, nano_bundle.manifest.model_copy(update={"video": video}))
    with pytest.raises(ServingError, match="--videos 1"):
        Service(ServiceConfig(bundle=two, data=tmp_path), [PictureFakeWorker()])
