"""Who may use the page: names it answers to, the token, and headers that keep a browser from doing more than it must.

A page elsewhere can make a browser send requests here. It cannot vote: a POST must come from a page of our own (its
`Origin`). It cannot read by letting its own name point here (DNS rebinding): only known names and plain addresses are
answered. Where others than this machine can connect, a token is asked for, kept as a cookie that scripts cannot read.
"""

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.requests import cookie_parser

from pipeline.errors import ParamsError

TOKEN = "ASSAY_REVIEW_TOKEN"
SHORTEST = 16  # characters of a token that someone chose
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
Scope = MutableMapping[str, Any]
Call = Callable[..., Awaitable[Any]]


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def token_for(host: str, given: str | None) -> str | None:
    """The token to ask for: the one that was given, a new one where the page is bound to more than this machine, else
    None. Raises ParamsError for one that is too short."""
    if given:
        if len(given) < SHORTEST or not given.isascii() or not given.isprintable() or any(c in given for c in ' ";,\\'):
            raise ParamsError(f"{TOKEN} must have at least {SHORTEST} letters or digits, got {len(given)} characters")
        return given
    return None if is_loopback(host) else secrets.token_urlsafe(24)


class Guard:
    """An ASGI application around another, see above. `cookie` is where a browser keeps the token; `names` are further
    ones that browsers reach it under, on any port, as behind a proxy."""

    def __init__(self, app: Call, host: str, token: str | None, cookie: str, names: tuple[str, ...] = ()) -> None:
        self._app, self._token, self._cookie = app, token, cookie
        self._given = {name.lower() for name in names}
        self._names = {"localhost", host.lower(), *self._given}
        if not is_loopback(host):
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Call, send: Call) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Scope) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
            await send(message)

        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        status, text, more = self._verdict(scope, headers)
        if not status:
            await self._app(scope, receive, with_headers)
            return
        body = text.encode()
        about = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode()), *more]
        await with_headers({"type": "http.response.start", "status": status, "headers": about})
        await send({"type": "http.response.body", "body": body})

    def _verdict(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str, list[tuple[bytes, bytes]]]:
        """Status, text and further headers of the answer that ends a request here; status 0 lets it pass."""
        host = headers.get("host", "")
        if not self._known(host):
            return 421, "This page does not answer to that name; --name adds one.\n", []
        origin = headers.get("origin")
        if scope["method"] not in ("GET", "HEAD") and origin is not None and not self._own(origin, host):
            return 403, "A vote must come from a page of this server.\n", []
        if self._token is None:
            return 0, "", []
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = dict(query).get("token")
        if given is not None and self._same(given):
            rest = urlencode([pair for pair in query if pair[0] != "token"])
            place = "/" + scope["raw_path"].decode("latin-1").lstrip("/") + (f"?{rest}" if rest else "")
            kept = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Lax"
            more = [(b"set-cookie", kept.encode()), (b"location", place.encode("latin-1"))]
            return 303, "", [*more, (b"cache-control", b"no-store")]
        if self._same(cookie_parser(headers.get("cookie", "")).get(self._cookie, "")):
            return 0, "", []
        return 403, "Open the address with the token that make review printed.\n", []

    def _same(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), str(self._token).encode())

    def _known(self, host: str) -> bool:
        name = _name(host)
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True

    def _own(self, origin: str, host: str) -> bool:
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and (parts.netloc == host or _name(parts.netloc) in self._given)


def _name(host: str) -> str:
    """The name of a host without its port, as `urlsplit` reads it; "" for one that is none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
