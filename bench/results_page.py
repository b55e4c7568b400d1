"""Runs the benchmarks of bench/ and writes the page of what they found:  python bench/results_page.py [SCRIPT ...]

    python bench/results_page.py                              all of bench/bench_*.py; bench/RESULTS.md is written anew
    python bench/results_page.py bench/bench_dpo.py           this one; the other rows stay
    python bench/results_page.py --quick --out /tmp/quick.md  those that have a quick form, for the tests

A script that compares ends with one JSON line, `{"bench", "peer", "ratio", "bound", "max_rel_diff", "ours", "theirs",
"machine"}`, and `"cases"` where it has several. Lines are kept in bench/results/lines.jsonl, one per command; the page
is made of them. What the other scripts print goes to the terminal; some write a page of their own. Nothing is written
where a script fails.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
KEYS = ("bench", "peer", "ratio", "bound", "max_rel_diff", "ours", "theirs", "machine")
PAGES = "results"
"""Folder beside the page with the lines, and with what other benchmarks wrote themselves."""
HEAD = """# What the benchmarks found

Written by `python bench/results_page.py` (`make bench`); do not edit.

- *ratio*: their time over ours, both measured in turn in one process; above 1 we are faster
- *bound*: their floating-point operations over ours, counted. *Share* is the ratio's part of it: above 100% where
  their time goes on other things than arithmetic (copies of keys and values, padding)
- *differs*: the largest relative difference of results, checked in the same run
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scripts", nargs="*", type=Path, help="default: bench/bench_*.py")
    parser.add_argument("--quick", action="store_true", help="only scripts with a quick form, and that")
    parser.add_argument("--out", type=Path, default=HERE / "RESULTS.md", help="the page")
    options = parser.parse_args()
    if options.quick and options.out == parser.get_default("out"):
        parser.error("--quick gives no figures to keep: say --out")
    found: dict[str, Mapping[str, Any]] = {}
    for script in options.scripts or sorted(HERE.glob("bench_*.py")):
        if options.quick and "--quick" not in script.read_text(encoding="utf-8"):
            continue
        arguments = [os.path.relpath(script.resolve(), ROOT), *(["--quick"] if options.quick else [])]
        line = compared(run(arguments))
        if line is not None:
            found[f"python {' '.join(arguments)}"] = line
    pages = options.out.parent / PAGES
    lines = read_lines(pages / "lines.jsonl") | found
    pages.mkdir(exist_ok=True)
    replace(pages / "lines.jsonl", "".join(json.dumps({"command": c, **line}) + "\n" for c, line in lines.items()))
    replace(options.out, page(lines, sorted(path.name for path in pages.glob("*.md"))))
    print(f"{options.out}: {len(lines)} benchmarks")


def run(arguments: Sequence[str]) -> list[str]:
    """The lines that a script printed, which are passed on as they come. Its failure ends ours."""
    print(f"\n$ python {' '.join(arguments)}", flush=True)
    printed = []
    with subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for text in process.stdout:
            print(text, end="", flush=True)
            printed.append(text)
    if process.returncode:
        sys.exit(f"{arguments[0]} failed ({process.returncode}); nothing is written")
    return printed


def compared(printed: Sequence[str]) -> Mapping[str, Any] | None:
    """The last line, where it is one of a comparison. One that lacks something ends us: it would be lost unseen."""
    last = printed[-1] if printed else ""
    if not last.startswith("{"):
        return None
    line: dict[str, Any] = json.loads(last)
    missing = [key for key in KEYS if key not in line]
    if missing:
        sys.exit(f"the last line lacks {', '.join(missing)}: {last[:200]}")
    return line


def read_lines(path: Path) -> dict[str, Mapping[str, Any]]:
    """Command -> line, of earlier runs."""
    if not path.is_file():
        return {}
    rows = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]
    return {row.pop("command"): row for row in rows}


def page(lines: Mapping[str, Mapping[str, Any]], others: Sequence[str]) -> str:
    parts = [HEAD, "| what | beside | ratio | bound | share | differs |", "|-|-|-|-|-|-|"]
    for line in lines.values():
        parts += ["| " + " | ".join(row) + " |" for row in rows(line)]
    parts += ["", "| what | command | machine |", "|-|-|-|"]
    parts += [f"| {line['bench']} | `{command}` | {line['machine']} |" for command, line in lines.items()]
    if others:
        parts += ["", "Pages of their own:", "", *(f"- [{PAGES}/{name}]({PAGES}/{name})" for name in others)]
    return "\n".join(parts) + "\n"


def rows(line: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for each case of a line, and each peer of a case."""
    for case in line.get("cases", [line]):
        what = f"{line['bench']}: {case['case']}" if "case" in case else line["bench"]
        differs = max(
            [case.get("max_rel_diff", 0.0), *(value for name, value in case.items() if name.startswith("rel_diff"))]
        )
        for peer, found in case.get("against", {line["peer"]: case}).items():
            bound = found.get("bound")
            share = ("", "") if bound is None else (f"{bound:.2f}", f"{found['ratio'] / bound:.0%}")
            yield what, peer, f"{found['ratio']:.2f}", *share, "none" if differs == 0 else f"{differs:.0e}"


def replace(path: Path, text: str) -> None:
    """A kill leaves the old file or the new one."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


if __name__ == "__main__":
    main()
