"""The builders over batches of lines, for tools that spread such batches over processes and machines.

    {"line": ['{"schema":"annotated/1",...}', ...]}
    ->  {"set": ["preference", "steerlm", ..., "failures"], "line": ['{"schema":"preference_pair/1",...}', ...]}

The same function, unchanged, for both:

    ray.data.read_text("annotated.jsonl").rename_columns({"text": "line"}).map_batches(
        pairs_of_lines, fn_kwargs={"settings": Pairs(), "seed": 0}, batch_format="numpy")
    datasets.Dataset.from_dict({"line": lines}).map(
        pairs_of_lines, fn_kwargs={"settings": Pairs(), "seed": 0}, batched=True, num_proc=2, remove_columns=["line"])

As no draw depends on another prompt, the lines are those that one process would make, whatever the batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from align.pairs.sets import Maker
from align.settings import Pairs
from annotate.records import Annotated, Failure


def pairs_of_lines(
    batch: Mapping[str, Sequence[str]],
    settings: Pairs | None = None,
    seed: int = 0,
) -> dict[str, list[str]]:
    """The rows of all training sets; as in the files, the failures are those of the preference pairs."""
    maker = Maker(settings or Pairs(), seed=seed)
    names, lines = list[str](), list[str]()
    for line in batch["line"]:
        for name, rows in maker(Annotated.from_line(line.encode())).sets.items():
            for row in rows:
                if not isinstance(row, Failure) or name == "preference":
                    names.append("failures" if isinstance(row, Failure) else name)
                    lines.append(row.to_line().decode().removesuffix("\n"))
    return {"set": names, "line": lines}
