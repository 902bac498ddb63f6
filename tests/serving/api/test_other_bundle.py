"""What clients are told of jobs that another bundle took in."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.serving.app import HOST, PictureFakeWorker, completed
from tests.serving.sample_jobs import add
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.serving.app import Doors, create_app
from vcut_trt.serving.jobs.jobs import OtherBundle
from vcut_trt.serving.jobs.service import Service, ServiceConfig
from vcut_trt.serving.jobs.store import JobStore


@pytest.mark.parametrize(("choice", "status"), [(OtherBundle.WAIT, "queued"), (OtherBundle.FAIL, "failed")])
def test_jobs_of_another_bundle_wait_or_fail_by_choice(
    nano_bundle: Bundle, tmp_path: Path, choice: OtherBundle, status: str
) -> None:
    store = JobStore(tmp_path, "another")
    name = add(store, "local")
    store.close()
    service = Service(ServiceConfig(bundle=nano_bundle, data=tmp_path, other_bundle=choice), [PictureFakeWorker()])
    with TestClient(create_app(lambda: service, Doors(upload_bytes=10**6)), base_url=HOST) as client:
        completed(client)
        told = client.get(f"/v1/videos/{name}").json()
    assert (told["status"], told["other_bundle"]) == (status, choice is OtherBundle.WAIT)
    if choice is OtherBundle.FAIL:
        assert told["error"]["code"] == "other_bundle"
        assert "submit it again" in told["error"]["message"]
