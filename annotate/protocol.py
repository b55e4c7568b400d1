"""The one door for annotators and judges: `async reply(request) -> Reply`.

A backend turns a rendered request into text and says which of six things happened; it never returns scores, so that
every backend, also `rules` and `replay`, goes through the one parser in `prompting.py`. A third party adds one by an
entry point in the group `mmalign.annotators`:

    [project.entry-points."mmalign.annotators"]
    mine = "my_package:MyAnnotator"

Three things a backend may have besides, each for itself: `traits` (see `Traits`), the methods of `Managed` (a key to
look for, a connection or a folder to open), and a price of its own (`Priced`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from annotate.records import Completion, Prompt, Reason

ENTRY_POINT_GROUP = "mmalign.annotators"


class Outcome(Enum):
    """What became of one request; the runner's whole policy is a function of this."""

    OK = "ok"
    RATE_MINUTE = "rate_minute"
    """Too fast: pause, try again, no attempt is used up."""
    QUOTA_DAY = "quota_day"
    """Nothing more today: stop cleanly, say when to come back."""
    TRANSIENT = "transient"
    """Try again, a bounded number of times."""
    ROW_FATAL = "row_fatal"
    """This row will never work (blocked, refused): a Failure, go on."""
    RUN_FATAL = "run_fatal"
    """No row will work (bad key, no such model): stop before money is burnt."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A piece of a message: text, or the n-th image of the request."""

    kind: Literal["text", "image"]
    text: str = ""
    image: int = -1


@dataclass(frozen=True, kw_only=True)
class Message:
    role: Literal["system", "user", "assistant"]
    parts: tuple[Part, ...]


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that is sent, and the records it was rendered from (local backends may read those instead)."""

    messages: tuple[Message, ...]
    images: tuple[bytes, ...] = ()
    """File bytes, verbatim."""
    schema: Mapping[str, Any] | None = None
    """JSON schema of the wanted reply, reasoning before scores; None asks for free text."""
    decoding: Mapping[str, Any] = field(default_factory=dict)
    sha256: str
    """Hash of everything that decides the reply: backend, model, messages, image hashes, schema, decoding, pass."""
    prompt: Prompt
    completions: tuple[Completion, ...] = ()
    """In the order shown; empty when the annotator answers the prompt itself."""
    pass_index: int = 0
    """Which of several readings of the same completions this is."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    outcome: Outcome
    text: str = ""
    usage: Mapping[str, int] = field(default_factory=dict)
    """`input_tokens`, `output_tokens`, `thought_tokens`, where the service tells."""
    model_version: str = ""
    """The model id as the service returned it."""
    response_id: str = ""
    finish: str = ""
    """Why the text ended, in the service's own word: `STOP`, `length`."""
    retry_after: float | None = None
    """Seconds, where the service says so; of a `quota_day` reply only where the service names the reset itself."""
    detail: str = ""
    """For humans; never contains a key."""
    reason: Reason = Reason.BLOCKED
    """What the Failure of a `row_fatal` reply is to say. After `cut_off` the question is put once more with twice the
    room; such a reply carries its text and usage like any other that was paid for."""


@runtime_checkable
class Annotator(Protocol):
    """A backend, made once per run as `Backend(model=..., **options)`.

    `paid` says whether replies cost money: such a stage never runs as a side effect of another verb.
    """

    paid: bool
    model: str

    async def reply(self, request: Request) -> Reply: ...


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What the runner may know of a backend, as its attribute `traits`; one that has none is taken to be like this."""

    deterministic: bool = False
    """The same request gives the same reply: asking again after an unreadable one is no use."""
    greedy_is_fixed: bool = False
    """That is so at temperature 0 (a model here; services are seldom so exact)."""
    decides: Mapping[str, Any] = field(default_factory=dict)
    """Options of the backend that decide its reply (thinking, safety settings); part of every request's key."""
    in_flight: int | None = None
    """Requests it can make use of at once; None: as many as the pace and the latency call for."""
    paced: bool = True
    """It is a shared service, asked at a declared or learnt pace; False: it works here, asked as fast as it answers."""
    batch: bool = False
    """Takes all requests at once and answers within hours, at the batch price: no pace is kept towards it."""
    quota_zone: str = "UTC"
    """Time zone at whose midnight a daily quota begins anew."""
    thinking_room: int = 0
    """Output tokens that a reply may take besides the limit of its text; a budget reckons with them."""
    image_tokens: int = 258
    """About how many input tokens an image is, for estimates."""


def traits_of(annotator: Annotator) -> Traits:
    traits: Traits = getattr(annotator, "traits", Traits())
    return traits


@runtime_checkable
class Managed(Protocol):
    """What a backend has that needs a key, a connection or a place to keep something in."""

    def check(self) -> None:
        """Raise `UserError` where it cannot work (no key). Called before any work; talks to nobody."""
        ...

    async def open(self, workspace: Path) -> None:
        """Called once, in the event loop of the run. `workspace` is a folder of its own that survives a kill."""
        ...

    async def close(self) -> None: ...


@runtime_checkable
class Priced(Protocol):
    """What a paid backend may have besides: the price of one reply in dollars, None where it is not known.

    Without it, the price is looked up by model in the price table (`annotate/prices.py`).
    """

    def cost_usd(self, usage: Mapping[str, int]) -> float | None: ...
