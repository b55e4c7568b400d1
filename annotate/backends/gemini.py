"""`gemini`: Gemini through google-genai. Paid, asynchronous; as many calls in flight as the pace calls for.

    annotate: {backend: gemini, model: gemini-2.5-pro, options: {thinking_budget: 1024}}   # export GEMINI_API_KEY=...

What the client does by itself is switched off, so that the runner alone decides what is asked again and paid for: its
retries, the one that it makes only where aiohttp happens to be installed, its continuations, its function calling. The
connections are ours (its own pool holds 100, and calls time out waiting for one). Image bytes are sent as they are.
What requests hold and what answers mean is in `gemini_wire.py`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
from pathlib import Path

from annotate.backends.gemini_wire import (
    IMAGE_TOKENS,
    KEYS,
    QUOTA_ZONE,
    ImageRefused,
    Options,
    Safety,
    WireRequest,
    refused,
    reply_of,
    reply_of_status,
    transient,
    wire_request,
)
from annotate.errors import UserError
from annotate.keys import read_key, scrub
from annotate.protocol import Outcome, Reply, Request, Traits

if importlib.util.find_spec("google.genai") is None:
    raise ModuleNotFoundError("No module named 'google.genai'", name="google.genai")


class Gemini:
    """One model behind one key."""

    paid = True

    def __init__(
        self,
        *,
        model: str,
        key_env: str = "",
        base_url: str = "",
        api_version: str = "v1beta",
        timeout_seconds: float = 300.0,
        thinking_budget: int | None = None,
        thinking_level: str | None = None,
        safety: Safety = "off",
        seed: int | None = None,
        json: bool = True,
    ) -> None:
        """`key_env`: the variable that holds the key; GEMINI_API_KEY or GOOGLE_API_KEY where none is named.

        `timeout_seconds` is of one call, from its start to the last byte of its answer. The other options are those of
        `gemini_wire.Options`; they decide the reply.
        """
        self.model = model
        self.options = Options(
            model=model,
            thinking_budget=thinking_budget,
            thinking_level=thinking_level,
            safety=safety,
            seed=seed,
            json=json,
        )
        if timeout_seconds <= 0:
            raise UserError(f"timeout_seconds: {timeout_seconds} is not above 0")
        self._keys = (key_env,) if key_env else KEYS
        self._base_url = base_url
        self._api_version = api_version
        self._timeout = timeout_seconds
        self._connection: Connection | None = None
        decides = self.options.decides()
        self.traits = Traits(
            decides=decides, quota_zone=QUOTA_ZONE, image_tokens=IMAGE_TOKENS, thinking_room=self.options.room()
        )

    def check(self) -> None:
        read_key(*self._keys)

    async def open(self, workspace: Path) -> None:
        self._connection = Connection(read_key(*self._keys), self._base_url, self._api_version, self._timeout)

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    async def reply(self, request: Request) -> Reply:
        """Ask once."""
        assert self._connection is not None, "open() comes first"
        try:
            sent = wire_request(request, self.options)
        except ImageRefused as error:
            return refused(error)
        try:
            async with asyncio.timeout(self._timeout):
                body = await self._connection.generate(self.model, sent)
            return reply_of(json.loads(body) if body else {})
        except Exception as error:
            reply = reply_of_error(error)
            if reply is None:
                raise
            return reply


# ---------------------------------------------------------------------------------------------- the client, tamed


class Connection:
    """`client` sends each request once, over as many connections as it takes. For one event loop; close it."""

    def __init__(self, key: str, base_url: str, api_version: str, timeout_seconds: float) -> None:
        import httpx2
        from google import genai
        from google.genai import types

        from annotate.backends.connections import Connections

        self._http = httpx2.AsyncClient(transport=Connections(), follow_redirects=True)
        self._plain = httpx2.Client(transport=httpx2.BaseTransport())  # never used; the client would make one
        options = types.HttpOptions(
            base_url=base_url or None,
            api_version=api_version,
            timeout=int(timeout_seconds * 1000),
            retry_options=types.HttpRetryOptions(attempts=1),
            httpx_client=self._plain,
            httpx_async_client=self._http,
        )
        self.client = genai.Client(api_key=key, vertexai=False, http_options=options)

    async def generate(self, model: str, sent: WireRequest) -> str:
        """One `generateContent`: the body of the answer.

        `client.models.generate_content` would turn the body into objects, check them, turn them back and hand it to
        this same method: 5 ms a call, more than a core has at 100 calls a second. It is not public; the range of
        versions in pyproject.toml and the tests of every outcome stand for it.
        """
        name = model if "/" in model else f"models/{model}"
        request = self.client._api_client.async_request
        response = await request("post", f"{name}:generateContent", sent.rest(), None)
        return response.body or ""

    async def close(self) -> None:
        self._plain.close()
        await self._http.aclose()


def reply_of_error(error: BaseException) -> Reply | None:
    """What an exception of the client means; None for one that is no answer of a service (our own fault)."""
    import httpx2
    from google.genai import errors

    if isinstance(error, errors.APIError):
        body = error.details if isinstance(error.details, dict) else {}
        told = body.get("error", body)
        return reply_of_status(
            int(error.code or 0),
            message=str(error.message or ""),
            status=str(error.status or ""),
            details=told.get("details", []) if isinstance(told, dict) else [],
            headers=dict(error.response.headers) if error.response is not None else {},
        )
    if isinstance(error, httpx2.UnsupportedProtocol | httpx2.InvalidURL):
        return Reply(outcome=Outcome.RUN_FATAL, detail=scrub(f"base_url: {error}"))
    if isinstance(error, httpx2.HTTPError | TimeoutError | json.JSONDecodeError | UnicodeDecodeError):
        return transient(f"{type(error).__name__}: {error}")
    return None
