"""The video calls of the openai SDK against `vcut serve`, as its users make them."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import openai
import pytest
import requests

from tests.serving.app import data_url, picture
from tests.serving.test_server import PATIENCE_SECONDS, Serving, serving
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.serving.api.keys import add_key

STEPS = {"num_inference_steps": 2}
POLL_MS = 50
pytestmark = pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = Path(tmp_path_factory.mktemp("keys")) / "keys.json"
    add_key(file, "first")
    return file


@pytest.fixture(scope="module")
def server(nano_bundle: Bundle, keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(nano_bundle, Path(tmp_path_factory.mktemp("sdk")) / "data", "--keys", str(keys)) as running:
        yield running


@pytest.fixture
def client(server: Serving, keys: Path) -> openai.OpenAI:
    """A client with a key, and so with jobs, of its own."""
    return client_of(server, add_key(keys, uuid.uuid4().hex))


def client_of(server: Serving, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=PATIENCE_SECONDS)


def create(client: openai.OpenAI, **options: Any) -> Any:
    return client.videos.create(
        **{"prompt": "", "input_reference": ("p.png", picture()), "extra_body": STEPS, **options}
    )


def test_create_with_a_file_poll_download_list_delete(client: openai.OpenAI, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(picture(kind="JPEG"))
    video = client.videos.create_and_poll(
        prompt="a sea", input_reference=photo, extra_body={**STEPS, "seed": 7}, poll_interval_ms=POLL_MS
    )
    assert (video.status, video.progress, video.error) == ("completed", 100, None)
    client.videos.download_content(video.id).write_to_file(tmp_path / "clip.mp4")
    with client.videos.with_streaming_response.download_content(video.id, variant="video") as response:
        response.stream_to_file(tmp_path / "streamed.mp4")
    content = (tmp_path / "clip.mp4").read_bytes()
    assert content == (tmp_path / "streamed.mp4").read_bytes()
    with av.open(io.BytesIO(content)) as clip:
        frames = [frame.to_image().size for frame in clip.decode(video=0)]
    assert frames == [tuple(map(int, video.size.split("x")))] * video.num_frames
    second = create(client)
    assert [seen.id for seen in client.videos.list(limit=1)] == [second.id, video.id]  # page by page
    assert [seen.id for seen in client.videos.list(order="asc")] == [video.id, second.id]
    deleted = client.videos.delete(video.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (video.id, True, "video.deleted")
    with pytest.raises(openai.NotFoundError, match=video.id):
        client.videos.retrieve(video.id)


def test_what_is_served_may_be_said(client: openai.OpenAI) -> None:
    told = create(client)
    assert create(client, model=told.model, size=told.size, seconds=told.seconds).status == "queued"
    for field, value in (("model", "sora-2"), ("size", "720x1280"), ("seconds", "4")):
        with pytest.raises(openai.UnprocessableEntityError) as refusal:
            create(client, **{field: value})
        assert (refusal.value.param, refusal.value.code) == (field, "invalid_value")


@pytest.mark.parametrize("file", [picture(), io.BytesIO(picture()), ("p.png", picture(), "image/png")])
def test_files_come_in_every_way_that_the_sdk_knows(client: openai.OpenAI, file: Any) -> None:
    assert create(client, input_reference=file).status == "queued"


def test_a_picture_comes_as_a_data_url_and_nothing_is_fetched(client: openai.OpenAI) -> None:
    """An extra field: the SDK's types know {"image_url": …}, but its own check lets files through only (3.57)."""
    extra = {**STEPS, "input_reference": {"image_url": data_url(picture(400, 300))}}
    assert client.videos.create(prompt="", extra_body=extra).status == "queued"
    for elsewhere in ({"image_url": "https://example.com/a.png"}, {"file_id": "file_1"}):
        with pytest.raises(openai.UnprocessableEntityError, match="data:image/png;base64") as refusal:
            client.videos.create(prompt="", extra_body={"input_reference": elsewhere})
        assert refusal.value.param == "input_reference"


def test_a_wrong_key_is_refused(server: Serving) -> None:
    stranger = client_of(server, "vcut_nobody")
    with pytest.raises(openai.AuthenticationError) as refusal:
        create(stranger)
    assert (refusal.value.code, refusal.value.status_code) == ("invalid_api_key", 401)
    with pytest.raises(openai.AuthenticationError):
        stranger.videos.list()


def test_a_request_that_is_repeated_with_its_key_makes_no_second_job(client: openai.OpenAI) -> None:
    again = {"extra_headers": {"Idempotency-Key": "once"}, "extra_body": {**STEPS, "seed": 1}}
    assert create(client, **again).id == create(client, **again).id
    with pytest.raises(openai.UnprocessableEntityError) as refusal:
        create(client, **again, input_reference=("p.png", picture(32, 32)))
    assert refusal.value.code == "idempotency_key_reused"


def test_a_download_before_its_time_is_a_conflict(client: openai.OpenAI) -> None:
    video = create(client, extra_body={"num_inference_steps": 900})
    with pytest.raises(openai.ConflictError):
        client.videos.download_content(video.id)
    client.videos.delete(video.id)
    assert client.videos.poll(video.id, poll_interval_ms=POLL_MS).status == "cancelled"


def test_head_works_over_a_socket(server: Serving, client: openai.OpenAI) -> None:
    with requests.Session() as session:  # one connection: a body that should not be there would be read as an answer
        session.headers["Authorization"] = f"Bearer {client.api_key}"
        name = create(client, extra_body={"num_inference_steps": 900}).id
        for path in ("", f"/{name}", f"/{name}/events"):
            answer = session.head(f"{server.url}/v1/videos{path}", timeout=PATIENCE_SECONDS)
            assert (answer.status_code, answer.content) == (200, b"")
        assert session.get(f"{server.url}/v1/videos/{name}", timeout=PATIENCE_SECONDS).json()["id"] == name
    client.videos.delete(name)
