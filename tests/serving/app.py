"""The application over a fake worker, asked in this process."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fastapi.testclient import TestClient
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from tests.serving.sample_jobs import FakeWorker
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.serving.app import Doors, create_app
from vcut_trt.serving.jobs.limits import Limits
from vcut_trt.serving.jobs.service import Service, ServiceConfig

HOST = "http://127.0.0.1"
STEPS = {"num_inference_steps": "4"}


class PictureFakeWorker(FakeWorker):
    """A fake worker that also takes pictures that were uploaded."""

    def make(self, order: Any) -> Any:
        yield from super().make(order.model_copy(update={"picture": self._known(order)}))

    def _known(self, order: Any) -> Path:
        place: Path = order.video.with_name("picture")
        assert Image.open(order.picture).format == "PNG"
        place.write_bytes(b"a picture")
        return place


@contextmanager
def application(
    bundle: Bundle,
    data: Path,
    worker: FakeWorker | None = None,
    *,
    keys: Path | None = None,
    limits: Limits | None = None,
    doors: Doors | None = None,
) -> Iterator[tuple[TestClient, Service]]:
    """A client, and the service behind it."""
    config = ServiceConfig(bundle=bundle, data=data, keys=keys, limits=limits or Limits())
    service = Service(config, [worker or PictureFakeWorker()])
    app = create_app(lambda: service, doors or Doors(upload_bytes=config.limits.upload_bytes), drain_seconds=5)
    with TestClient(app, base_url=HOST, raise_server_exceptions=False) as client:
        yield client, service


def picture(width: int = 64, height: int = 48, kind: str = "PNG", **options: Any) -> bytes:
    """An encoded picture."""
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=kind, **options)
    return stream.getvalue()


def data_url(content: bytes | None = None) -> str:
    """A picture as JSON carries it."""
    return f"data:image/png;base64,{base64.b64encode(picture() if content is None else content).decode()}"


def upload(content: bytes | None = None, name: str = "image") -> dict[str, Any]:
    """The files of a form."""
    return {name: ("p.png", picture() if content is None else content, "image/png")}


def final(client: TestClient, name: str, **options: Any) -> dict[str, Any]:
    """A job's object once it has ended; its events are read to their end."""
    with client.stream("GET", f"/v1/videos/{name}/events", **options) as events:
        assert events.status_code == 200, events.read()
        for _ in events.iter_lines():
            pass
    answer: dict[str, Any] = client.get(f"/v1/videos/{name}", **options).json()
    return answer


def completed(client: TestClient) -> str:
    """The id of a job that has ended well."""
    name = str(client.post("/v1/videos", files=upload(), data=STEPS).json()["id"])
    assert final(client, name)["status"] == "completed"
    return name


def metrics(client: TestClient, **options: Any) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every value that Prometheus is told, by its name and the values of its labels."""
    families = text_string_to_metric_families(client.get("/metrics", **options).text)
    return {
        (sample.name, tuple(sample.labels.values())): sample.value for family in families for sample in family.samples
    }


def refused(response: Any, status: int, code: str, param: str | None = None) -> str:
    """The message of a refusal: JSON, of the one shape that all of them have."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "code", "param"}
    assert (error["code"], error["param"]) == (code, param), error
    assert len(error["message"]) < 500
    return str(error["message"])
