"""Answers to requests that are a little off: HEAD, queries, ids, ranges, hosts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.serving.api.test_routes import Gate, held_application
from tests.serving.app import STEPS, application, completed, final, metrics, refused, upload
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.serving.api.keys import add_key
from vcut_trt.serving.app import Doors
from vcut_trt.serving.jobs.service import Service

GETS = ["/", "/app.js", "/openapi.json", "/healthz", "/readyz", "/metrics", "/v1/server", "/v1/videos"]
OF_A_JOB = ["", "/content", "/events"]


@pytest.fixture
def running(nano_bundle: Bundle, tmp_path: Path) -> Iterator[tuple[TestClient, Service]]:
    with application(nano_bundle, tmp_path / "data") as made:
        made[1].wait_until_started()
        yield made


@pytest.fixture
def client(running: tuple[TestClient, Service]) -> TestClient:
    return running[0]


# HEAD


@pytest.mark.parametrize("path", [*GETS, *OF_A_JOB])
def test_head_answers_what_get_does_without_the_body(client: TestClient, path: str) -> None:
    if path in OF_A_JOB:
        path = f"/v1/videos/{completed(client)}{path}"
    whole, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (whole.status_code, b"")
    assert whole.status_code == 200
    for name in ("content-type", "content-disposition", "accept-ranges", "x-video-id", "cache-control"):
        assert head.headers.get(name) == whole.headers.get(name), name
    if path != "/metrics":  # which counts on
        assert head.headers.get("content-length") == whole.headers.get("content-length")


def test_head_of_a_job_that_goes_on_does_not_wait_for_its_end(nano_bundle: Bundle, tmp_path: Path) -> None:
    gate = Gate()
    with held_application(nano_bundle, tmp_path / "data", gate) as (client, _):
        name = client.post("/v1/videos", files=upload(), data=STEPS).json()["id"]
        head = client.head(f"/v1/videos/{name}/events")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"].startswith("text/event-stream")
        gate.go_on.set()
        assert final(client, name)["status"] == "completed"


def test_head_is_refused_as_get_is(nano_bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = {"Authorization": f"Bearer {add_key(file, 'ann')}"}
    with application(nano_bundle, tmp_path / "data", keys=file) as (client, _):
        assert client.head("/v1/videos").status_code == 401
        assert client.head("/v1/videos", headers=key).status_code == 200
        assert client.head("/nothing").status_code == client.head("/v1/videos/video_x", headers=key).status_code == 404


# Queries and ids


@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("GET", "/v1/videos?status=failed", "status"),
        ("GET", "/v1/videos?limit=1&Limit=2", "Limit"),
        ("POST", "/v1/videos?seed=3", "seed"),
        ("POST", "/v1/videos/sync?seed=3", "seed"),
        ("GET", "/v1/videos/ID?fields=id", "fields"),
        ("DELETE", "/v1/videos/ID?force=1", "force"),
        ("GET", "/v1/videos/ID/content?download=1", "download"),
        ("GET", "/v1/videos/ID/events?since=3", "since"),
        ("HEAD", "/v1/videos?status=failed", "status"),
        ("GET", "/v1/server?x", "x"),
        ("GET", "/metrics?name[]=vcut_ready", "name[]"),
    ],
)
def test_a_query_that_is_not_known_is_refused_by_name(client: TestClient, method: str, path: str, name: str) -> None:
    path = path.replace("ID", completed(client) if "ID" in path else "")
    body = {"files": upload(), "data": STEPS} if method == "POST" else {}
    answer = client.request(method, path, **body)  # type: ignore[arg-type]
    if method == "HEAD":
        assert answer.status_code == 422
    else:
        assert name in refused(answer, 422, "invalid_value", name)
    assert len(client.get("/v1/videos").json()["data"]) == ("ID" in path or "video_" in path)


def test_a_query_is_refused_with_the_names_that_are_known(client: TestClient) -> None:
    message = refused(client.get("/v1/videos", params={"page": 2}), 422, "invalid_value", "page")
    assert "after, limit, order" in message
    assert "none" in refused(client.get("/v1/server", params={"page": 2}), 422, "invalid_value", "page")


def test_a_query_that_is_given_twice_is_refused(client: TestClient) -> None:
    refused(client.get("/v1/videos?limit=1&limit=2"), 422, "invalid_value", "limit")


def test_what_is_not_the_api_takes_any_query(client: TestClient) -> None:
    for path in ("/?utm=1", "/app.js?v=2", "/healthz?verbose", "/readyz?verbose"):
        assert client.get(path).status_code == 200


def test_the_variant_of_a_video_is_the_video(client: TestClient) -> None:
    path = f"/v1/videos/{completed(client)}/content"
    assert client.get(path, params={"variant": "video"}).content == client.get(path).content
    refused(client.get(path, params={"variant": "thumbnail"}), 422, "invalid_value", "variant")


@pytest.mark.parametrize("name", ["video_x", "x", "video_" + "0" * 31, "video_" + "F" * 32, "sync", "%00", "a" * 3000])
def test_an_id_of_another_shape_is_not_there(client: TestClient, name: str) -> None:
    for method, path in (("GET", ""), ("GET", "/content"), ("GET", "/events"), ("DELETE", "")):
        message = refused(client.request(method, f"/v1/videos/{name}{path}"), 404, "not_found")
        assert len(message) < 200
    assert "sync" in refused(client.get("/v1/videos?after=sync"), 404, "not_found")


def test_a_slash_too_many_is_not_sent_elsewhere(client: TestClient) -> None:
    answer = client.get("/v1/videos/", headers={"Host": "evil.example"}, follow_redirects=False)
    refused(answer, 404, "not_found")


# Ranges, and other answers of the frameworks beneath


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ("bytes=99999-", 416, "range_not_satisfiable"),
        ("bytes=5-2", 400, "bad_request"),
        ("bytes=x", 400, "bad_request"),
        ("bytes", 400, "bad_request"),
    ],
)
def test_a_range_that_is_not_there_is_refused_like_the_rest(
    client: TestClient, asked: str, status: int, code: str
) -> None:
    path = f"/v1/videos/{completed(client)}/content"
    size = len(client.get(path).content)
    answer = client.get(path, headers={"Range": asked})
    assert f"{size} bytes" in refused(answer, status, code)
    assert answer.headers.get("content-range") == (f"bytes */{size}" if status == 416 else None)
    assert client.head(path, headers={"Range": asked}).status_code == status


def test_a_range_in_a_unit_that_nobody_knows_is_ignored(client: TestClient) -> None:
    path = f"/v1/videos/{completed(client)}/content"
    answer = client.get(path, headers={"Range": "seconds=1-2"})  # RFC 9110, 14.2
    assert (answer.status_code, answer.content) == (200, client.get(path).content)


def test_another_host_is_told_which_ones_are_answered(nano_bundle: Bundle, tmp_path: Path) -> None:
    doors = Doors(upload_bytes=1000, allowed_hosts=("127.0.0.1",))
    with application(nano_bundle, tmp_path / "data", doors=doors) as (client, _):
        answer = client.get("/v1/videos", headers={"Host": "evil.example"})
        assert "--allowed-host" in refused(answer, 400, "bad_request")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert metrics(client)["vcut_refused_total", ("bad_request",)] == 1


def test_an_error_of_the_servers_own_has_the_same_shape(
    running: tuple[TestClient, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, service = running
    monkeypatch.setattr(service.store, "page", lambda *_, **__: 1 / 0)
    answer = client.get("/v1/videos")
    assert "log" in refused(answer, 500, "server_error")
    assert "division" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
