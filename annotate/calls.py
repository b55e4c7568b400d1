"""What is asked, and what the recipe says of it: the words that `asking.py` and those who use it have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from annotate.protocol import Annotator, Request
from annotate.records import Image, Prompt

ReadImage = Callable[[Image], bytes]
CostOf = Callable[[Annotator, Mapping[str, int]], float | None]
"""Dollars for the usage of one reply; None where no price is known."""


class Call(Protocol):
    """One thing to ask."""

    @property
    def prompt(self) -> Prompt: ...

    def request(self, attempt: int = 0, room: int = 1) -> Request:
        """The request without its images; `attempt` counts fresh questions, `room` multiplies the token limit."""
        ...

    def readable(self, text: str, cut_off: bool = False) -> bool:
        """Whether a reply's text, cut off at the token limit or not, is of use; if not, it may be asked again."""
        ...

    def note(self) -> Mapping[str, Any]:
        """What the line is to say of how it was asked."""
        ...


class AskSettings(Protocol):
    """What an annotator's block of the recipe says of money and patience."""

    @property
    def workers(self) -> int | None: ...
    @property
    def attempts(self) -> int: ...
    @property
    def wait_quota(self) -> bool: ...
    @property
    def budget_usd(self) -> float | None: ...
    @property
    def max_output_tokens(self) -> int: ...
