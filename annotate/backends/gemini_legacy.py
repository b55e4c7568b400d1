"""`gemini_legacy`: Gemini through google-generativeai, for those whose environment still holds it. Paid, in threads.

    annotate: {backend: gemini_legacy, model: gemini-2.5-flash}   # export GEMINI_API_KEY=...

The library has reached its end of life; `gemini` is the one to choose. What differs:

- Its asynchronous calls block the loop over REST and then fail, so each call has a thread: `threads` at once.
- The schema is not sent. The library knows only a kind of its own, whose fields it sends in another order than they
  were declared in: the model would be made to write its scores before its reasons. The form is asked for in the prompt
  alone, which always says it; with `json: true` the whole reply has to be JSON all the same.
- It knows no thinking, no seed and no count of thought tokens (which are what the total has beyond the rest).
- `timeout_seconds` is of the silence between two packets, not of the whole call.

Its own retries (503, for ten minutes) are switched off. Everything else is as in `gemini`, and means the same.
"""

from __future__ import annotations

import asyncio
import importlib.util
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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

if importlib.util.find_spec("google.generativeai") is None:
    raise ModuleNotFoundError("No module named 'google.generativeai'", name="google.generativeai")

_configuring = threading.Lock()
"""The library is configured for the whole process; the clients made in between are for one backend each."""


class GeminiLegacy:
    """One model behind one key."""

    paid = True

    def __init__(
        self,
        *,
        model: str,
        key_env: str = "",
        base_url: str = "",
        timeout_seconds: float = 300.0,
        threads: int = 64,
        safety: Safety = "off",
        json: bool = False,
    ) -> None:
        """`key_env`: the variable that holds the key; GEMINI_API_KEY or GOOGLE_API_KEY where none is named.

        `base_url` with its scheme, where it is not the service's own; `threads`: calls in flight.
        """
        self.model = model
        self.options = Options(model=model, safety=safety, json=json)
        if timeout_seconds <= 0 or threads < 1:
            raise UserError("timeout_seconds must be above 0 and threads at least 1")
        self._keys = (key_env,) if key_env else KEYS
        self._base_url = base_url
        self._timeout = timeout_seconds
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._local = threading.local()
        decides = self.options.decides()
        self.traits = Traits(
            decides=decides,
            quota_zone=QUOTA_ZONE,
            image_tokens=IMAGE_TOKENS,
            in_flight=threads,
            thinking_room=self.options.room(),
        )

    def check(self) -> None:
        read_key(*self._keys)

    async def open(self, workspace: Path) -> None:
        key = read_key(*self._keys)
        self._library, self._protos = _import_library()
        self._pool = ThreadPoolExecutor(self._threads, "gemini_legacy", lambda: self._begin_thread(key))

    async def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    async def reply(self, request: Request) -> Reply:
        """Ask once."""
        assert self._pool is not None, "open() comes first"
        try:
            sent = wire_request(request, self.options)
        except ImageRefused as error:
            return refused(error)
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._ask, sent)

    def _begin_thread(self, key: str) -> None:
        """A client per thread: its session holds one connection, which is kept."""
        options = {"api_endpoint": self._base_url} if self._base_url else None
        with _configuring:
            self._library.configure(api_key=key, transport="rest", client_options=options)
            self._local.client = self._library.get_default_generative_client()
        # Its session asks twice more after a 401, for credentials that could be renewed; a key cannot.
        self._local.client.transport._session._max_refresh_attempts = 0

    def _ask(self, sent: WireRequest) -> Reply:
        try:
            request = proto_request(sent, self.model, self._protos)
            response = self._local.client.generate_content(request, retry=None, timeout=self._timeout)
            return reply_of(_with_names(response))
        except Exception as error:
            reply = reply_of_error(error)
            if reply is None:
                raise
            return reply


def _import_library() -> tuple[Any, Any]:
    """Its modules `client` and `protos`; it warns of its own end when it is imported."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from google.generativeai import client, protos
    return client, protos


def proto_request(sent: WireRequest, model: str, protos: Any) -> Any:
    """`GenerateContentRequest`, without what the library does not know: schema, seed, thinking."""
    known = ("temperature", "top_p", "max_output_tokens", "response_mime_type")
    return protos.GenerateContentRequest(
        {
            "model": model if "/" in model else f"models/{model}",
            "contents": list(sent.contents),
            "safety_settings": list(sent.safety),
            "generation_config": {n: sent.generation[n] for n in known if n in sent.generation},
            **({"system_instruction": {"parts": [{"text": sent.system}]}} if sent.system else {}),
        }
    )


def _with_names(response: Any) -> Any:
    """The answer as the service writes it: camelCase, enums by name."""
    return type(response).to_dict(
        response,
        use_integers_for_enums=False,
        preserving_proto_field_name=False,
        always_print_fields_with_no_presence=False,
    )


def reply_of_error(error: BaseException) -> Reply | None:
    """What an exception of the library means; None for one that is no answer of a service (our own fault)."""
    import requests
    from google.api_core import exceptions
    from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]

    if isinstance(error, exceptions.GoogleAPICallError):
        response = error.response
        told = _told(response)
        return reply_of_status(
            int(error.code or 0),
            message=str(told.get("message") or error.message or ""),
            status=str(told.get("status") or ""),
            details=[detail for detail in error.details if isinstance(detail, dict)],
            headers={n.lower(): v for n, v in response.headers.items()} if response is not None else {},
        )
    if isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
        return Reply(outcome=Outcome.RUN_FATAL, detail=scrub(f"base_url: {error}"))
    if isinstance(error, requests.exceptions.RequestException | ParseError | UnicodeDecodeError):
        return transient(f"{type(error).__name__}: {error}")
    return None


def _told(response: Any) -> dict[str, Any]:
    """The error in the service's own words: the library's exceptions have not all of them."""
    try:
        told = response.json()["error"]
    except (AttributeError, LookupError, TypeError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}
