"""Refresh the tables that are made from the code:  python docs/tables.py

A page says where one stands: `<!-- table: formats -->` ... `<!-- /table -->`; a test compares them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from align.formats import formats

PAGES = Path(__file__).parent


def formats_table() -> str:
    """Every format: what it holds, whether it is read and written, from where its layout was read."""
    lines = ["| format | holds | | written as | layout read from |", "|-|-|-|-|-|"]
    for form in formats().values():
        reads = form.read is not None or form.read_group is not None
        ways = " ".join(["read"] * reads + ["write"] * (form.write is not None))
        container = form.container if form.write is not None else "–"
        lines.append(
            f"| `{form.name}`<br>{form.title} | {', '.join(form.kinds)} | {ways} | {container} | {form.layout} |"
        )
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {"formats": formats_table}


def refreshed(text: str) -> str:
    """A page with its tables made anew."""

    def table(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- /table -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- /table -->", table, text, flags=re.S)


def main() -> None:
    for page in PAGES.glob("*.md"):
        page.write_text(refreshed(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
