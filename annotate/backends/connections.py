"""As many connections as there are calls in flight, for clients that speak through httpx2.

    http = httpx2.AsyncClient(transport=Connections(), follow_redirects=True)       # close with `await http.aclose()`

The pool of httpx2 looks at each of its connections twice per call and asks the operating system about each idle one:
with 300 calls in flight that is 12 ms of work per call, and the client falls behind a pace of 100 calls a second. Here
each connection is a pool of its own, and the one used last is used next: the work per call does not grow.
"""

from __future__ import annotations

import urllib.request
from collections.abc import AsyncIterator

import httpx2

_Origin = tuple[str, str, int | None]


class Connections(httpx2.AsyncBaseTransport):
    """Keep-alive connections, without a limit; proxies as the environment says (HTTPS_PROXY, NO_PROXY)."""

    def __init__(self, keepalive_seconds: float = 30.0) -> None:
        self._context = httpx2.create_ssl_context()
        self._limits = httpx2.Limits(
            max_connections=None, max_keepalive_connections=1, keepalive_expiry=keepalive_seconds
        )
        self._proxies = urllib.request.getproxies()
        self._all: set[httpx2.AsyncHTTPTransport] = set()
        self._idle: dict[_Origin, list[httpx2.AsyncHTTPTransport]] = {}

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = request.url
        idle = self._idle.setdefault((url.scheme, url.host, url.port), [])
        connection = idle.pop() if idle else self._new(url)
        try:
            response = await connection.handle_async_request(request)
        except BaseException:  # also when we are cancelled: nobody else is to find it half used
            self._all.discard(connection)
            await connection.aclose()
            raise
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Body(response.stream, connection, idle)
        return response

    async def aclose(self) -> None:
        self._idle.clear()
        while self._all:
            await self._all.pop().aclose()

    def _new(self, url: httpx2.URL) -> httpx2.AsyncHTTPTransport:
        proxy = self._proxies.get(url.scheme) or self._proxies.get("all")
        if proxy and urllib.request.proxy_bypass(url.host):
            proxy = None
        connection = httpx2.AsyncHTTPTransport(verify=self._context, limits=self._limits, proxy=proxy)
        self._all.add(connection)
        return connection


class _Body(httpx2.AsyncByteStream):
    """What is left to read of a response; its end sets the connection free."""

    def __init__(
        self,
        stream: httpx2.AsyncByteStream,
        connection: httpx2.AsyncHTTPTransport,
        idle: list[httpx2.AsyncHTTPTransport],
    ) -> None:
        self._stream = stream
        self._connection = connection
        self._idle = idle
        self._open = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
        if self._open:
            self._open = False
            self._idle.append(self._connection)
