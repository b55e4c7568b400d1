"""The sources that there are scripts for, as the table of data/README.md:  python data/list_sources.py [--write]

    | script | source | rows | licence | on the hub | files |

With `--write` the table in README.md is brought up to date; a test compares the two.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))

from sources import Hub, Source  # noqa: E402

START, END = "<!-- sources: written by list_sources.py -->", "<!-- end of sources -->"


def all_sources() -> dict[str, Source]:
    """Script name -> its source, for every `prepare_*.py` that describes one."""
    found = {}
    for path in sorted(HERE.glob("prepare_*.py")):
        if "\nSOURCE = Source(" in path.read_text(encoding="utf-8"):
            found[path.name] = import_module(path.stem).SOURCE
    return found


def table() -> str:
    """The sources, one a line."""
    head = (
        "| script | source | `--subset` | rows | taken | licence | `--hub` | `--folder` holds |\n" + "|---" * 8 + "|\n"
    )
    return head + "".join(f"| {' | '.join(_cells(script, source))} |\n" for script, source in all_sources().items())


def _cells(script: str, source: Source) -> Iterator[str]:
    parts = [part for subset in source.subsets.values() for part in subset]
    yield f"`{script}`"
    yield f"[{source.title}]({source.url.split(' ')[0]})"
    yield ", ".join(f"`{name}`" for name in source.subsets)
    yield f"{source.rows:,}"
    yield f"{source.n:,}" if source.n else "all"
    yield source.licence
    yield "<br>".join(dict.fromkeys(_told(part.hub) for part in parts if part.hub))
    yield "<br>".join(dict.fromkeys(f"`{part.files[0]}`" for part in parts))


def _told(hub: Hub) -> str:
    more = [f"`{text}`" for text in (hub.config, (hub.revision or "").removeprefix("refs/")[:15]) if text]
    return ", ".join([f"`{hub.id}`", *more, *([f"split `{hub.split}`"] if hub.split != "train" else [])])


def main() -> None:
    if sys.argv[1:] not in ([], ["--write"]):
        sys.exit(__doc__)
    if not sys.argv[1:]:
        print(table(), end="")
        return
    readme = HERE / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{START}\n\n{table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
