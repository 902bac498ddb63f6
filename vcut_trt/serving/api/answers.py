"""How answers leave where the frameworks beneath have ways of their own: HEAD, ranges, errors of the server."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import anyio
from fastapi import Request
from fastapi.responses import FileResponse
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from vcut_trt.serving.api.errors import NAMES, ApiError, ErrorResponse
from vcut_trt.serving.api.guards import SECURITY_HEADERS


class HeadLikeGet:
    """Answers HEAD as GET is answered, without the body: whatever GET works for, HEAD does (RFC 9110, 9.3.2).

    The application sees a GET. It is ended at the first byte of its body: an event stream would go on for minutes.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        with anyio.CancelScope() as answering:

            async def headers_only(message: MutableMapping[str, Any]) -> None:
                if message["type"] == "http.response.start":
                    await send(message)
                elif message["type"] == "http.response.body" and not answering.cancel_called:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    answering.cancel()

            await self._app({**scope, "method": "GET"}, receive, headers_only)


class VideoFile(FileResponse):
    """A file, or ranges of it. A range that is not there is refused as everything else is."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI.

        Raises:
            ApiError: 416: the file has no such bytes; 400: the header makes no sense.
        """

        async def watched(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and message["status"] in (400, 416):
                size = self.headers["content-length"]
                unsatisfied = {"Content-Range": f"bytes */{size}"} if message["status"] == 416 else None
                text = f"the video has {size} bytes; send Range: bytes=FIRST-LAST, both from 0 and LAST below {size}"
                raise ApiError(message["status"], text, headers=unsatisfied)
            await send(message)

        await super().__call__(_without_other_units(scope), receive, watched)


def _without_other_units(scope: Scope) -> Scope:
    """The request without a range in a unit that nobody knows, which is to be ignored (RFC 9110, 14.2)."""

    def is_other(name: bytes, value: bytes) -> bool:
        unit, equals, _ = value.partition(b"=")
        return name == b"range" and equals == b"=" and unit.strip().lower() != b"bytes"

    return {**scope, "headers": [(name, value) for name, value in scope["headers"] if not is_other(name, value)]}


async def on_server_error(_request: Request, _error: Exception) -> Response:
    """Answer what nobody expected. The server's log has its traceback; the client learns nothing of the inside."""
    message = "the server failed; its log has the details"
    return ErrorResponse(500, message, code=NAMES[500], headers=SECURITY_HEADERS)
