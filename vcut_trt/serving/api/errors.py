"""Refusals, in the shape of the OpenAI-style APIs: {"error": {"message", "type", "code", "param"}}."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import Receive, Scope, Send

NAMES = {
    400: "bad_request",
    401: "invalid_api_key",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "upload_too_slow",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media_type",
    416: "range_not_satisfiable",
    422: "invalid_value",
    429: "too_many_jobs",
    500: "server_error",
    503: "unavailable",
    504: "deadline_exceeded",
    507: "no_space",
}
OF_JOBS = (409, 500, 504)  # what answers that tell how a job stands or ended
REFUSALS = (
    *(code for status, code in NAMES.items() if status not in OF_JOBS),
    "not_completed",
    "queue_full",
    "idempotency_key_reused",
)
"""The codes of requests that were refused, as they are counted."""


class ErrorDetail(BaseModel):
    """What was refused, and why."""

    message: str
    type: str
    code: str
    param: str | None = None


class ErrorBody(BaseModel):
    """The body of every refusal."""

    error: ErrorDetail


class ApiError(HTTPException):
    """A refusal with a machine-readable code; `param` names the field that is at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.code = code or NAMES[status]
        self.param = param


class ErrorResponse(JSONResponse):
    """A refusal as a response. It is counted as it is sent, wherever it was made."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        kind = "invalid_request_error" if status < 500 else "server_error"
        detail = ErrorDetail(message=_sendable(message), type=kind, code=code, param=param and _sendable(param))
        super().__init__(ErrorBody(error=detail).model_dump(), status, headers)
        self._code = code

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if self._code in REFUSALS:
            scope["app"].state.count_refusal(self._code)
        await super().__call__(scope, receive, send)


def _sendable(text: str) -> str:
    """A text of which half may be a client's, as UTF-8 can carry it."""
    return text.encode("utf-8", "backslashreplace").decode()


async def on_http_error(_request: Request, error: Exception) -> JSONResponse:
    """Answer an HTTPException, ours or the framework's."""
    assert isinstance(error, StarletteHTTPException)
    code = error.code if isinstance(error, ApiError) else NAMES.get(error.status_code, "error")
    param = error.param if isinstance(error, ApiError) else None
    return ErrorResponse(error.status_code, str(error.detail), code=code, param=param, headers=error.headers)


async def on_invalid_request(_request: Request, error: Exception) -> JSONResponse:
    """Answer a query or path parameter that is not valid."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = str(first["loc"][-1])
    return ErrorResponse(422, f"{param}: {first['msg']}", code=NAMES[422], param=param)


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI descriptions of the refusals that a route may give."""
    return {status: {"model": ErrorBody, "description": NAMES[status].replace("_", " ")} for status in statuses}


def refusals_of_stream(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same for a route that streams: FastAPI would describe its refusals as streams too."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{ErrorBody.__name__}"}}}
    return {status: {"content": content, "description": NAMES[status].replace("_", " ")} for status in statuses}
