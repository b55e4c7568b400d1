"""Refresh the tables that are made from the code:  python docs/tables.py

A page says where one stands: `<!-- table: formats -->` ... `<!-- /table -->`; a test compares them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from align.doctor import words
from align.doctor.thresholds import THRESHOLDS
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


def levels_table() -> str:
    """Every finding that is judged: from which value on it is `!!`, and from which `!`."""
    apart, longer = "the interval leaves out", "the longer one wins more than"
    place = "places {:g} points apart or more; of preferences, the first one's share {:.0%} or more from a half"
    rows = (
        ("limit", "a limit of `--fail-on` is broken", "–"),
        ("bad rows", "any", "–"),
        ("not joined", "annotated rows and pairs have no prompt in common", "–"),
        ("leakage", "any question stands in the data", "an image is shared, or something could not be compared"),
        ("chosen = rejected", "any pair", "–"),
        ("contradictions", "any pair whose opposite is there too", "–"),
        ("duplicates", "–", "any pair that repeats another"),
        ("completions", "–", f"more than {words.REPEATED:.0%} repeat another of their prompt"),
        ("length", f"{longer} {words.LONGER_WINS:.0%}, or chosen is more than {words.LONGER:g} times as long; "
         f"{apart} 50%, or 1", f"{apart} 50%"),
        ("score ~ length", f"rank correlation of {words.FOLLOWS_LENGTH:g} or more; {apart} 0", f"{apart} 0"),
        ("verbosity, complexity", f"{words.DRIFT:g} points or more between chosen and rejected; {apart} 0",
         f"{apart} 0"),
        ("ties", f"more than {words.TIED:.0%} of the pairs have margin 0", "–"),
        ("margins below 0", "any pair", "–"),
        ("no preference", f"in more than {words.SATURATED:.0%} of prompts all completions score the same", "–"),
        ("place shown", f"p < {words.SIGNIFICANT:g}, and {place.format(words.PLACE, words.FIRST)}",
         f"p < {words.SIGNIFICANT:g}"),
        ("attributes", "–", f"two correlate by {words.SAME:g} or more, or by −{words.SAME:g} or less"),
        ("polarity", "–", f"one polarity has more than {words.UNEVEN:.0%} of the prompts"),
        ("vocabulary", "–", f"a word with z of {words.TELLS:g} or more"),
    )  # fmt: skip
    return "\n".join(["| finding | `!!` from | `!` from |", "|-|-|-|", *(f"| {' | '.join(row)} |" for row in rows)])


def thresholds_table() -> str:
    """Every name of --fail-on: what it limits, and what helps."""
    rows = (f"| `{name}` | {t.what} | {t.remedy} |" for name, t in THRESHOLDS.items())
    return "\n".join(["| limit | what it is set to | what helps |", "|-|-|-|", *rows])


TABLES: dict[str, Callable[[], str]] = {
    "formats": formats_table, "levels": levels_table, "thresholds": thresholds_table
}  # fmt: skip


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
