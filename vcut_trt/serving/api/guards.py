"""What stands before every request: who asks, from where, under which name, how much is sent, and with which query."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vcut_trt.serving.api.errors import ApiError, ErrorResponse
from vcut_trt.serving.jobs.service import LOCAL_OWNER, Service

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


def owner_of(
    request: Request, _documented: Annotated[object, Depends(HTTPBearer(auto_error=False, description="vcut keys"))]
) -> str:
    """Whose request it is; one owner for all, where there are no keys.

    Raises:
        ApiError: 401: no key, or one that nobody has; 403: a page of another origin asks.
    """
    _check_origin(request)
    return _owner(request)


def check_owner(request: Request, owner: str) -> None:
    """Refuse a request that has been waiting when its key was taken back.

    Raises:
        ApiError: 401: it was.
    """
    if _owner(request) != owner:
        raise ApiError(401, "the API key is another owner's now")


def is_owner(request: Request, owner: str) -> bool:
    """Whether a request's key is still `owner`'s."""
    try:
        check_owner(request, owner)
    except ApiError:
        return False
    return True


def _owner(request: Request) -> str:
    service: Service = request.app.state.service
    if service.keys is None:
        return LOCAL_OWNER
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    owner = service.keys.owner(key.strip()) if scheme.lower() == "bearer" and key else None
    if owner is None:
        raise ApiError(401, "send a valid API key: Authorization: Bearer KEY", headers={"WWW-Authenticate": "Bearer"})
    return owner


def _check_origin(request: Request) -> None:
    """Refuse pages of other sites: a browser lets them post forms to a server that trusts its own machine."""
    origin = request.headers.get("origin")
    allowed: tuple[str, ...] = request.app.state.doors.cors_origins
    if origin is None or origin in allowed or "*" in allowed:
        return
    try:
        asking = urlsplit(origin).netloc.lower()
    except ValueError:  # no browser sends such a thing
        asking = ""
    if not asking or asking != request.headers.get("host", "").lower():
        raise ApiError(403, f"pages of {origin[:200]} may not use this server; see --cors-origin")


def check_query(request: Request) -> None:
    """Refuse a query parameter that the route's description does not know: it would have no effect.

    Raises:
        ApiError: 422: one is unknown, or given twice.
    """
    operation = request.app.openapi()["paths"][request.scope["route"].path][request.method.lower()]
    known = sorted(field["name"] for field in operation.get("parameters", ()) if field["in"] == "query")
    seen = set()
    for name, _ in request.query_params.multi_items():
        if name not in known:
            names = ", ".join(known) or "none"
            raise ApiError(422, f"the query {name[:100]} is not known; known here: {names}", param=name[:100])
        if name in seen:
            raise ApiError(422, f"the query {name} is given twice", param=name)
        seen.add(name)


class KnownHosts:
    """Answers under the names that it may be asked by, and no others: a page could make its own name point here."""

    def __init__(self, app: ASGIApp, allowed_hosts: Sequence[str]) -> None:
        self._app = app
        self._allowed_hosts = list(allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if await self._is_known(scope, receive):
            await self._app(scope, receive, send)
            return
        message = "this server is not asked under that name; its operator can allow it: --allowed-host"
        await ErrorResponse(400, message, code="bad_request")(scope, receive, send)

    async def _is_known(self, scope: Scope, receive: Receive) -> bool:
        """Whether Starlette's middleware, whose own refusal is no JSON, lets a request pass."""
        passed = False

        async def note(_scope: Scope, _receive: Receive, _send: Send) -> None:
            nonlocal passed
            passed = True

        async def nowhere(_message: MutableMapping[str, Any]) -> None:
            return

        judge = TrustedHostMiddleware(note, allowed_hosts=self._allowed_hosts, www_redirect=False)
        await judge(scope, receive, nowhere)
        return passed


class _TooLargeError(Exception):
    pass


class BodyLimit:
    """Ends a request whose body is larger than an upload may be, at the byte that is too much."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app = app
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _content_length(scope) > self._most_bytes:
            await self._refuse(scope, receive, send)
            return
        seen, has_begun = 0, False

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._most_bytes:
                raise _TooLargeError
            return message

        async def watched(message: MutableMapping[str, Any]) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, counted, watched)
        except _TooLargeError:
            if has_begun:
                raise
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = f"the request is larger than {self._most_bytes:,} bytes"
        headers = {"Connection": "close", **SECURITY_HEADERS}  # what is still being sent is not read
        await ErrorResponse(413, message, code="too_large", headers=headers)(scope, receive, send)


def _content_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


class SecurityHeaders:
    """Adds to every response what keeps browsers from guessing and framing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.lower().encode(), value.encode())
                        for name, value in SECURITY_HEADERS.items()
                        if name.lower().encode() not in present
                    ),
                ]
            await send(message)

        await self._app(scope, receive, with_headers)
