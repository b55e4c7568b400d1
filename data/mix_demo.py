"""The rows of the demo's language-heavy mix:  python data/mix_demo.py [data/demo]

Takes tune.jsonl and language.jsonl, as data/prepare_demo.py writes them. Gives mlan.jsonl beside them: the rows of
tune.jsonl that have images, then the dialogues of language.jsonl, whose answers keep to the form that is asked for. The
shares are the recipe's (`tune.text_share` of recipes/mlan/demo.yaml). What stands there already is left alone.

`align mix` draws such mixes out of real data sets; its instructions are worded in English, of which the demo's language
model knows a few dozen words. No row asks anything of the benchmarks: both files are made of training contexts alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from align.train.rows import Conversation  # noqa: E402
from annotate.jsonl import dump_line, read_records  # noqa: E402
from annotate.records import replace  # noqa: E402


def mixed(folder: Path) -> str:
    """The content of mlan.jsonl; a dialogue is of level 0, as all text that `tune` reads."""
    images = [row for row in read_records(folder / "tune.jsonl", Conversation) if row.images]
    dialogues = [row for row in read_records(folder / "language.jsonl", Conversation) if row.source == "language"]
    return "".join(map(dump_line, [*images, *(replace(row, level=0) for row in dialogues)]))


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "data/demo"
    content, file = mixed(folder), folder / "mlan.jsonl"
    if not file.is_file() or file.read_text(encoding="utf-8") != content:
        file.write_text(content, encoding="utf-8")
        print(f"{file}: {content.count(chr(10)):,} rows")


if __name__ == "__main__":
    main()
