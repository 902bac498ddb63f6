"""The API against its own OpenAPI document: what schemathesis sends, the document describes the answers of."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.serving.app import PictureFakeWorker, data_url, picture
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.serving.api.keys import add_key
from vcut_trt.serving.app import Doors, create_app
from vcut_trt.serving.jobs.limits import Limits
from vcut_trt.serving.jobs.service import Service, ServiceConfig

EXAMPLES = 30  # of each route
PATIENCE_SECONDS = 120  # a guard against hanging only
ROUTES = [
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
    "GET /v1/server",
    "POST /v1/videos",
    "GET /v1/videos",
    "POST /v1/videos/sync",
    "GET /v1/videos/{video_id}",
    "DELETE /v1/videos/{video_id}",
    "GET /v1/videos/{video_id}/content",
    "GET /v1/videos/{video_id}/events",
]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tmp_path_factory.mktemp("keys")) / "keys.json"


@pytest.fixture(scope="module")
def authorized(keys: Path) -> dict[str, str]:
    return {"Authorization": f"Bearer {add_key(keys, 'ann')}"}


@pytest.fixture(scope="module")
def schema(
    nano_bundle: Bundle, keys: Path, authorized: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """The document of a server that listens on a port of its own and knows one key."""
    assert authorized
    limits = Limits(queue_jobs=3, jobs_per_key=3)
    config = ServiceConfig(bundle=nano_bundle, data=Path(tmp_path_factory.mktemp("data")), limits=limits, keys=keys)
    app = create_app(lambda: Service(config, [PictureFakeWorker()]), Doors(upload_bytes=100_000), drain_seconds=5)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield schemathesis.openapi.from_url(f"http://127.0.0.1:{listener.getsockname()[1]}/openapi.json")
    server.should_exit = True
    thread.join()


def test_these_are_the_routes(schema: Any) -> None:
    found = {operation.ok().label for operation in schema.get_all_operations()}
    assert found == set(ROUTES)


@pytest.mark.parametrize("route", ROUTES)
def test_answers_are_those_that_the_document_describes(schema: Any, authorized: dict[str, str], route: str) -> None:
    method, path = route.split()

    # A form that fits the document may still be refused: it cannot say that c is at most N + 1, that a size must be the
    # bundle's, or that what it calls binary is a picture.
    excluded = [positive_data_acceptance] if method == "POST" else []

    @given(case=schema[path][method].as_strategy())
    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    def check(case: Any) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("image"), bytes):
            case.body["image"] = picture()
        if isinstance(case.body, dict) and isinstance(case.body.get("input_reference"), dict):
            case.body["input_reference"] = {"image_url": data_url(picture())}
        case.call_and_validate(headers=authorized, excluded_checks=excluded, timeout=PATIENCE_SECONDS)

    check()
