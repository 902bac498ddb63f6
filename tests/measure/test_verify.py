"""What `vcut verify` does where a check cannot be made; what it finds is tested in tests/parity and tests/commands."""

from __future__ import annotations

import pytest

from tests.models import checkpoint
from vcut_trt.bundle.bundle import Bundle
from vcut_trt.engines.backends import Backend, choose_backend
from vcut_trt.engines.opener import BaseOpener
from vcut_trt.errors import EngineError
from vcut_trt.measure import verify


def test_openers_are_closed_when_a_check_raises(nano_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []

    def breaks(*_arguments: object) -> None:
        raise EngineError("no")

    monkeypatch.setattr(verify, "_check_graph", breaks)
    monkeypatch.setattr(verify, "check_fold", lambda *_arguments: None)
    monkeypatch.setattr(BaseOpener, "close", lambda self: closed.append(type(self).__name__))
    monkeypatch.setattr(verify.ModuleOpener, "close", lambda self: closed.append(type(self).__name__))
    with pytest.raises(EngineError):
        verify.verify_bundle(nano_bundle, checkpoint(), choose_backend(nano_bundle, Backend.ONNXRUNTIME, "cpu"))
    assert closed == ["OnnxRuntimeOpener", "ModuleOpener"]
