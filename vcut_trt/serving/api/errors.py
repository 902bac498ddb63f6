"""Refusals, in the shape of the OpenAI-style APIs: {"error": {"message", "type", "code", "param"}}."""

from __future__ import annotations

from typing import Any

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException as StarletteHTTPException

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


def error_response(
    status: int, message: str, *, code: str, param: str | None = None, headers: Any = None
) -> JSONResponse:
    """A refusal as a response."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = ErrorBody(error=ErrorDetail(message=message, type=kind, code=code, param=param))
    return JSONResponse(body.model_dump(), status, headers)


async def on_http_error(_request: Request, error: Exception) -> JSONResponse:
    """Answer an HTTPException, ours or the framework's."""
    assert isinstance(error, StarletteHTTPException)
    code = error.code if isinstance(error, ApiError) else NAMES.get(error.status_code, "error")
    param = error.param if isinstance(error, ApiError) else None
    return error_response(error.status_code, str(error.detail), code=code, param=param, headers=error.headers)


async def on_invalid_request(_request: Request, error: Exception) -> JSONResponse:
    """Answer a query or path parameter that is not valid."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = str(first["loc"][-1])
    return error_response(422, f"{param}: {first['msg']}", code=NAMES[422], param=param)


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI descriptions of the refusals that a route may give."""
    return {status: {"model": ErrorBody, "description": NAMES[status].replace("_", " ")} for status in statuses}


def refusals_of_stream(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same for a route that streams: FastAPI would describe its refusals as streams too."""
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{ErrorBody.__name__}"}}}
    return {status: {"content": content, "description": NAMES[status].replace("_", " ")} for status in statuses}
