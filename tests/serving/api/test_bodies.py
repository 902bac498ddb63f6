"""Bodies of requests: JSON beside forms, pictures as data URLs, and fields that say what is served."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.serving.app import STEPS, application, data_url, picture, refused, upload
from tests.serving.sample_jobs import files
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.serving.api import uploads
from vcut_trt.serving.decoding.decoders import PLACES
from vcut_trt.serving.jobs.limits import Limits
from vcut_trt.serving.jobs.service import Service

FORM = "multipart/form-data; boundary=b"


@pytest.fixture
def running(nano_bundle: Bundle, tmp_path: Path) -> Iterator[tuple[TestClient, Service]]:
    with application(nano_bundle, tmp_path / "data") as made:
        yield made


@pytest.fixture
def client(running: tuple[TestClient, Service]) -> TestClient:
    return running[0]


def reference(content: bytes | None = None) -> dict[str, Any]:
    return {"input_reference": {"image_url": data_url(content)}}


# JSON


def test_json_makes_the_job_that_a_form_makes(running: tuple[TestClient, Service]) -> None:
    client, service = running
    fields = {"num_inference_steps": 4, "seed": 5, "noise_aug_strength": 0.1, "fit": "stretch", "prompt": None}
    service.is_draining = False
    key = {"Idempotency-Key": "k"}
    first = client.post("/v1/videos", json={**fields, **reference()}, headers=key)
    assert first.status_code == 202, first.text
    texts = {name: str(value) for name, value in fields.items() if value is not None}
    again = client.post("/v1/videos", files=upload(), data=texts, headers=key)
    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])  # picture and fields are the same
    assert (first.json()["noise_aug_strength"], first.json()["seed"]) == (0.1, 5)


@pytest.mark.parametrize(
    "fields",
    [
        {"input_reference": {"image_url": "URL"}},
        {"image": {"image_url": "URL"}},
        {"input_reference": "URL"},  # as Dynamo has it
        {"input_reference": {"image_url": "URL"}, "num_inference_steps": "4"},
    ],
)
def test_a_picture_may_be_a_data_url(client: TestClient, fields: dict[str, Any]) -> None:
    text = json.dumps(fields).replace("URL", data_url())
    answer = client.post("/v1/videos", content=text, headers={"Content-Type": "application/json; charset=utf-8"})
    assert answer.status_code == 202, answer.text


@pytest.mark.parametrize("name", ["input_reference[image_url]", "input_reference", "image[image_url]"])
def test_a_form_may_hold_a_data_url(client: TestClient, name: str) -> None:
    """The openai SDK writes {"image_url": …} as a field of a form, with brackets."""
    large = picture(400, 300)  # larger than any other field may be
    body = {name: (None, data_url(large)), "num_inference_steps": (None, "4")}
    answer = client.post("/v1/videos", files=body)
    assert answer.status_code == 202, answer.text


def test_sync_takes_json(client: TestClient) -> None:
    answer = client.post("/v1/videos/sync", json={"num_inference_steps": 4, "seed": 9, **reference()})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "video/mp4")
    assert b"seed=9" in answer.content


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/cat.png",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "ftp://example.com/a",
        "/etc/passwd",
        "//example.com/a.png",
        "",
        " data:image/png;base64,AAAA",
    ],
)
def test_nothing_is_fetched_for_a_client(
    client: TestClient, url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import socket

    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("it was fetched"))
    for body in ({"json": {"input_reference": {"image_url": url}}}, {"files": {"image[image_url]": (None, url)}}):
        answer = client.post("/v1/videos", **body)  # type: ignore[arg-type]
        field = "input_reference" if "json" in body else "image"
        assert "data:image/png;base64," in refused(answer, 422, "invalid_value", field)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "url",
    ["data:,hello", "data:image/png,abc", "data:image/png;base64", "data:;base64,A A", "data:image/png;base64,AAA"],
)
def test_a_data_url_that_is_none_is_refused(client: TestClient, url: str) -> None:
    answer = client.post("/v1/videos", json={"input_reference": {"image_url": url}})
    refused(answer, 422, "invalid_value", "input_reference")


def test_what_is_behind_a_data_url_is_judged_by_its_bytes(client: TestClient) -> None:
    for content in (picture(kind="GIF"), b"<svg onload=alert(1)>"):
        answer = client.post("/v1/videos", json=reference(content))
        refused(answer, 415, "unsupported_media_type", "image")


def test_files_of_other_services_are_not_known_here(client: TestClient) -> None:
    answer = client.post("/v1/videos", json={"input_reference": {"file_id": "file_1"}})
    assert "file_id" in refused(answer, 422, "invalid_value", "input_reference")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"seed": 2**64}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"seed": True}, "seed"),
        ({"seed": [1]}, "seed[]"),
        ({"seed": {"a": 1}}, "seed[a]"),
        ({"seed": {}}, "seed"),
        ({"nvext": {"seed": 1}}, "nvext[seed]"),
        ({"input_reference": {"image_url": {"url": "data:"}}}, "input_reference[image_url][url]"),
        ({"input_reference": {"image_urls": "data:"}}, "input_reference[image_urls]"),
        ({"input_reference": [{"image_url": "data:"}]}, "input_reference[][image_url]"),
        ({"steps2": 4}, "steps2"),
        ({"seconds": 4}, "seconds"),
        ({"prompt": "x" * 20_000}, "prompt"),
        ({"\ud800": 1}, "form"),
        ({"input_reference": {"\ud800": 1}}, "input_reference[\\ud800]"),
        ({"fit": "\ud800"}, "fit"),
    ],
)
def test_a_field_of_json_that_is_not_usable_is_named(client: TestClient, fields: dict[str, Any], param: str) -> None:
    body = json.dumps({**reference(), **fields})
    answer = client.post("/v1/videos", content=body, headers={"Content-Type": "application/json"})
    refused(answer, 422, "invalid_value", param)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'"x"', 400),
        (b"\xff", 400),
        (b'{"seed": NaN}', 400),
        (b'{"seed": ' + b"9" * 6000 + b"}", 422),
        (b"[" * 100_000, 400),
        (b'{"a":' * 50_000, 400),
        (b'{"seed": 1, "seed": 2}', 422),
        (json.dumps({f"f{index}": 1 for index in range(99)}).encode(), 400),
        (b"{}", 422),
    ],
)
def test_json_that_is_none_is_refused(client: TestClient, body: bytes, status: int) -> None:
    answer = client.post("/v1/videos", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize("charset", ["utf-16", "undefined", "idna", "utf-8\0", "hex", "x" * 300, "raw_unicode_escape"])
@pytest.mark.parametrize("kind", [FORM, "application/json"])
def test_other_charsets_are_refused(client: TestClient, charset: str, kind: str) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="fit"\r\n\r\n\xff\r\n--b--\r\n' if kind is FORM else b"{}"
    header = {"Content-Type": f"{kind}; charset={charset}".encode()}
    answer = client.post("/v1/videos", content=body, headers=header)  # type: ignore[arg-type]
    assert "UTF-8" in refused(answer, 415, "unsupported_media_type")


# How much


def test_a_picture_has_one_limit_however_it_is_sent(nano_bundle: Bundle, tmp_path: Path) -> None:
    content = picture(90, 80)
    bodies: list[dict[str, Any]] = [
        {"files": upload(content), "data": STEPS},
        {"json": reference(content)},
        {"files": {"input_reference[image_url]": (None, data_url(content))}},
    ]
    for most, status in ((len(content), 202), (len(content) - 1, 413)):
        limits = Limits(upload_bytes=most)
        with application(nano_bundle, tmp_path / str(most), limits=limits) as (client, service):
            for body in bodies:
                answer = client.post("/v1/videos", **body)
                assert answer.status_code == status, (list(body), answer.text)
                if status == 413:
                    assert f"{most:,} bytes" in refused(answer, 413, "too_large", "image")
                    assert files(service.config.data) == set()


def test_a_large_picture_fits_as_base64(nano_bundle: Bundle, tmp_path: Path) -> None:
    content = picture(600, 500)  # some 900 KB: a third more is more than the frame of a form may add
    with application(nano_bundle, tmp_path / "data", limits=Limits(upload_bytes=len(content))) as (client, _):
        assert client.post("/v1/videos", json=reference(content)).status_code == 202


@pytest.mark.parametrize("kind", ["application/json", FORM])
def test_a_body_is_read_to_memory_when_it_is_its_turn(
    running: tuple[TestClient, Service], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A client's pictures are decoded one at a time; what waits for that lies on disk."""
    client, service = running
    idle, turns = service.decoders._idle, []
    form_of = uploads._form_of
    monkeypatch.setattr(uploads, "_form_of", lambda *given: turns.append(len(idle)) or form_of(*given))
    body = b"{}" if kind == "application/json" else b"--b--\r\n"
    refused(client.post("/v1/videos", content=body, headers={"Content-Type": kind}), 422, "invalid_value", "image")
    assert turns == [PLACES - 1]
    assert len(idle) == PLACES


# What is served


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"seconds": "0.86"}, 202),  # 6 frames at 7 a second
        ({"seconds": "0.857142857"}, 202),
        ({"seconds": "6", "fps": "1"}, 202),
        ({"seconds": 6, "fps": 1}, 202),
        ({"seconds": "1.0", "fps": "6"}, 202),
        ({"seconds": "1"}, 422),
        ({"seconds": "4"}, 422),
        ({"seconds": "0.84"}, 422),
        ({"seconds": "nan"}, 422),
        ({"seconds": "1e400"}, 422),
        ({"seconds": "four"}, 422),
    ],
)
def test_seconds_are_taken_where_they_are_the_videos(client: TestClient, fields: dict[str, Any], status: int) -> None:
    if all(isinstance(value, str) for value in fields.values()):
        answer = client.post("/v1/videos", files=upload(), data={**STEPS, **fields})
    else:
        answer = client.post("/v1/videos", json={**reference(), **fields})
    assert answer.status_code == status, answer.text
    if status == 422:
        message = refused(answer, 422, "invalid_value", "seconds")
        assert "number" in message or ("6 frames" in message and "fps" in message and "0.86" in message)


def test_the_seconds_that_a_job_tells_are_taken(client: TestClient) -> None:
    for fps in ("7", "24", "30", "239"):
        told = client.post("/v1/videos", files=upload(), data={**STEPS, "fps": fps}).json()["seconds"]
        again = client.post("/v1/videos", files=upload(), data={**STEPS, "fps": fps, "seconds": told})
        assert again.status_code == 202, again.text


@pytest.mark.parametrize(
    ("field", "value", "decides"),
    [
        ("size", "1024x576", "--width and --height"),
        ("width", "100", "--width"),
        ("height", "100", "--height"),
        ("num_frames", "99", "--frames"),
        ("model", "sora-2", "--model"),
    ],
)
def test_what_is_fixed_is_refused_with_what_decides_it(
    client: TestClient, field: str, value: str, decides: str
) -> None:
    answer = client.post("/v1/videos", files=upload(), data={**STEPS, field: value})
    message = refused(answer, 422, "invalid_value", field)
    assert decides in message
    assert "export" in message


@pytest.mark.parametrize("body", [{"json": reference()}, {"files": upload(), "data": STEPS}])
def test_a_full_disk_under_an_upload_is_said(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, body: dict[str, Any]
) -> None:
    class Full(SpooledTemporaryFile[bytes]):
        def write(self, *_: Any) -> int:
            raise OSError(28, "No space left on device", "secret")

    monkeypatch.setattr(uploads, "SpooledTemporaryFile", Full)
    answer = client.post("/v1/videos", **body)
    assert "secret" not in refused(answer, 507, "no_space")
    assert answer.headers["retry-after"] == "60"
