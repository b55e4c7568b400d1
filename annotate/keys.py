"""Keys come from the environment, and go nowhere but into the request.

    key = read_key("GEMINI_API_KEY", "GOOGLE_API_KEY")        # UserError naming the variables where none is set
    scrub("API key abc123 not valid")                         # 'API key [key] not valid'

Every text that comes from a service or an exception passes `scrub` before it is kept or shown.
"""

from __future__ import annotations

import os

from annotate.errors import UserError

_read: set[str] = set()


def read_key(*names: str) -> str:
    """The value of the first of these environment variables that is set."""
    for name in names:
        if key := os.environ.get(name, "").strip():
            if not (key.isascii() and key.isprintable()) or " " in key:  # a header's error would show it
                raise UserError(f"the environment variable {name} holds no key: it has blanks or letters no key has")
            if len(key) >= 8:  # shorter ones (`EMPTY`, `0`) are placeholders, and words of any text
                _read.add(key)
            return key
    raise UserError(f"no key: set the environment variable {' or '.join(names)} (never put a key into a recipe)")


def scrub(text: str) -> str:
    """`text` without any key that was read in this process."""
    for key in sorted(_read, key=len, reverse=True):
        text = text.replace(key, "[key]")
    return text
