"""Refresh the lines of docs/pipeline.md from a finished run:  python docs/follow.py runs/demo

Follows the first prompt about an image of digits whose completions made a preference pair.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("pipeline.md")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def follow(run: Path) -> dict[str, dict[str, Any]]:
    """The line of each stage about one prompt."""
    pairs = lines(run / "pairs/preference.jsonl")
    pair = next(p for p in pairs if p["prompt"]["source"] == "digits" and len(p["prompt"]["turns"]) == 1)
    prompt = pair["prompt"]["id"]
    of_prompt = {
        "sample/completions.jsonl": "prompt_id",
        "annotate/annotated.jsonl": "prompt",
        "pairs/steerlm.jsonl": "meta",
    }
    found = {"prompts": {"schema": "prompt/1", **pair["prompt"]}, "pairs/preference.jsonl": pair}
    for name in of_prompt:
        for row in lines(run / name):
            if prompt in (row.get("prompt_id"), row.get("prompt", {}).get("id"), row.get("meta", {}).get("prompt_id")):
                found[name] = row
                break
    found["dpo/log.jsonl"] = lines(run / "dpo/log.jsonl")[0]
    items = lines(run / "evaluate/items.jsonl")
    found["evaluate/items.jsonl"] = next(i for i in items if i["model"] == "dpo" and i["state"] == "ok")
    metrics = lines(run / "evaluate/metrics.jsonl")
    found["evaluate/metrics.jsonl"] = next(m for m in metrics if m["model"] == "dpo" and m["low"] is not None)
    found["pairs/manifest.json"] = json.loads((run / "pairs/manifest.json").read_text(encoding="utf-8"))
    return found


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    found = follow(Path(sys.argv[1]))

    def block(match: re.Match[str]) -> str:
        body = json.dumps(found[match[1]], indent=1, ensure_ascii=False)
        return f"<!-- line: {match[1]} -->\n```json\n{body}\n```\n<!-- /line -->"

    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(re.sub(r"<!-- line: (\S+) -->\n.*?<!-- /line -->", block, text, flags=re.S), encoding="utf-8")


if __name__ == "__main__":
    main()
