"""Makes `tests/benchmark_golden/squad.json`: what SQuAD 2.0's official script says about answers of ours.

`compute_score.py` is that script as lm-eval loads it (metrics/squad_v2 of github.com/huggingface/evaluate, a7dd338).
Run by hand, with the file at hand:  python tests/tools/golden_squad.py compute_score.py
"""

import json
import random
import runpy
import sys
from pathlib import Path

GOLDEN = Path(__file__).parent.parent / "benchmark_golden" / "squad.json"
WORDS = ["the", "a", "an", "red", "Red.", "ball", "box", "box's", "U.S.", "3.5", "3", "1,000", "sun-light", "map",
         "(map)", "The", "of", "é", "x\u00a0y", "--"]  # fmt: skip
CASES = [
    ("red", ["red"]),
    ("", []),
    ("unanswerable", []),
    ("The U.S. of A.", ["the US of A"]),
    ("  an   apple ", ["apple", "an apple a day"]),
    ("", ["the"]),
    ("the", ["a", "red"]),
    ("a", []),
    ("red red ball", ["red ball ball"]),
    ("1,000", ["1000"]),
    ("sun-light", ["sunlight", "sun light"]),
]


def main(script: str) -> None:
    raw_scores = runpy.run_path(script)["get_raw_scores"]
    draw = random.Random(0)

    def words(least: int, most: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(least, most)))

    drawn = [(words(0, 4), [words(1, 4) for _ in range(draw.randint(0, 3))]) for _ in range(49)]
    rows = []
    for text, answers in CASES + drawn:
        question = {"id": "q", "answers": {"text": answers}}
        exact, f1 = raw_scores([{"paragraphs": [{"qas": [question]}]}], {"q": text})
        rows.append({"text": text, "answers": answers, "exact": exact["q"], "f1": f1["q"]})
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    GOLDEN.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
