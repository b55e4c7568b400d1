"""One contestant, one file, one process:  python bench/pairs_rig/contestants.py NAME INPUT OUTPUT

What pandas does is written as its users write it; each reads the file and writes pairs, JSON Lines or parquet.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCORE = ["helpfulness", "correctness", "coherence"]
KEYS = ["image", "prompt"]


def ours(source: Path, out: Path, workers: int, sets: tuple[str, ...] = ("preference",)) -> None:
    from align.pairs import Pairs
    from align.pairs.build import build_files

    build_files(source, out, Pairs(sets=sets), 0, workers=workers)


def read(source: Path, **options: Any) -> Any:
    import pandas

    if source.name == "annotated.jsonl":
        return flattened(source)
    return (
        pandas.read_parquet(source) if source.suffix == ".parquet" else pandas.read_json(source, lines=True, **options)
    )


def flattened(source: Path) -> Any:
    """Our nested records as rows."""
    import pandas

    rows = []
    with source.open() as lines:
        for line in lines:
            row = json.loads(line)
            (turn,) = row["prompt"]["turns"]
            scores = {r["completion_id"]: r["scores"] for r in row["annotations"][0]["ratings"]}
            rows += [
                {
                    "image": turn["images"][0]["path"],
                    "prompt": turn["text"].removeprefix("<image>\n"),
                    "response": completion["text"],
                    **scores[completion["id"]],
                }
                for completion in row["completions"]
            ]
    return pandas.DataFrame(rows)


def written(table: Any, out: Path, source: Path) -> None:
    if source.suffix == ".parquet":
        table.to_parquet(out)
    else:
        table.to_json(out, orient="records", lines=True, force_ascii=False)


def pandas_loop(source: Path, out: Path) -> None:
    """As the paper's notebooks: each group by itself, best by idxmax, one of those 2 points below."""
    import pandas

    table = read(source)
    table["score"] = table[SCORE].sum(axis=1)
    pairs = []
    for (image, prompt), group in table.groupby(KEYS):
        best = group.loc[group["score"].idxmax()]
        worse = group[group["score"] <= best["score"] - 2]
        if worse.empty:
            continue
        rejected = worse.sample(n=1).iloc[0]
        pairs.append(
            {"image": image, "prompt": prompt, "chosen": best["response"], "rejected": rejected["response"]}
        )  # fmt: skip
    written(pandas.DataFrame(pairs), out, source)


def pandas_vectorised(source: Path, out: Path, **options: Any) -> None:
    """No loop: the best of each group joined to its rows, those 2 points below shuffled, the first of each group."""
    table = read(source, **options)
    table["score"] = table[SCORE].sum(axis=1)
    table = table[[*KEYS, "response", "score"]]
    best = table.loc[table.groupby(KEYS, sort=False)["score"].idxmax()]
    both = table.merge(best, on=KEYS, suffixes=("", "_best"))
    worse = both[both["score"] <= both["score_best"] - 2]
    drawn = worse.sample(frac=1, random_state=0).drop_duplicates(KEYS)
    pairs = drawn.rename(columns={"response_best": "chosen", "response": "rejected"})
    written(pairs[[*KEYS, "chosen", "rejected"]], out, source)


def pandas_expert(source: Path, out: Path) -> None:
    """As fast as we can make pandas: Arrow's reader on all cores, groups as numbers, no join on texts."""
    import numpy

    options = {"engine": "pyarrow"} if source.name == "flat.jsonl" else {}
    table = read(source, **options)
    score = table[SCORE].sum(axis=1)
    group = table.groupby(KEYS, sort=False).ngroup().to_numpy()
    best = score.groupby(group).idxmax().to_numpy()[group]
    worse = numpy.flatnonzero(score.to_numpy() <= score.to_numpy()[best] - 2)
    numpy.random.default_rng(0).shuffle(worse)
    drawn = worse[numpy.unique(group[worse], return_index=True)[1]]
    pairs = table.loc[drawn, KEYS]
    pairs["chosen"] = table["response"].to_numpy()[best[drawn]]
    pairs["rejected"] = table["response"].to_numpy()[drawn]
    written(pairs, out, source)


def parse_json(source: Path, out: Path) -> None:
    """Plain parsing, line by line; nothing is done with it."""
    with source.open("rb") as lines:
        for line in lines:
            json.loads(line)


def parse_msgspec(source: Path, out: Path) -> None:
    import msgspec

    decode = msgspec.json.Decoder().decode
    with source.open("rb") as lines:
        for line in lines:
            decode(line)


def convert(source: Path, out: Path, to: str) -> None:
    """`align convert`."""
    from align.formats import format_named
    from align.formats.reading import read_file
    from align.formats.store import ImageStore
    from align.formats.writing import write_file

    store = ImageStore(root=None)
    write_file(read_file(source, images=store), out, format_named(to), images=store)


ALL_SETS = ("preference", "steerlm", "rejection")
CONTESTANTS: dict[str, Callable[[Path, Path], None]] = {
    "ours, 1 process": lambda source, out: ours(source, out, 1),
    "ours, 2 processes": lambda source, out: ours(source, out, 2),
    "ours, all three sets, 2 processes": lambda source, out: ours(source, out, 2, ALL_SETS),
    "pandas, loop": pandas_loop,
    "pandas, vectorised": pandas_vectorised,
    "pandas, expert": pandas_expert,
    "json.loads alone": parse_json,
    "msgspec alone": parse_msgspec,
    "to our records": lambda source, out: convert(source, out, "mmalign"),
    "to LLaMA-Factory": lambda source, out: convert(source, out, "llama_factory"),
    "to ms-swift": lambda source, out: convert(source, out, "ms_swift"),
}

if __name__ == "__main__":
    CONTESTANTS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
