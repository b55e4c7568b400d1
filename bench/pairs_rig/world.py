"""The files of the benchmark: the same annotated completions in every layout, made from a seed.

write(folder, prompts=25_000)
->  flat.jsonl (HelpSteer's layout and `image`), annotated.jsonl (our records), flat.parquet (if pyarrow is there)
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

from annotate.records import Annotated, Annotation, Completion, Image, Prompt, Rating, Turn, content_id
from annotate.rubric import load_rubric

N = 4
"""Completions of a prompt."""
ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
WORDS = (
    "the figure shows that values of green line increase over time while red bars remain near baseline which suggests "
    "strong correlation between two measured variables in panel left and right image dog street person holding "
    "umbrella building sign café naïve “quoted” 数"
).split()
HELPSTEER = load_rubric("helpsteer")[0]


def write(folder: Path, prompts: int) -> None:
    """Rows of one prompt stand together, as in HelpSteer; 15 to 75 words an answer, 300 characters on average."""
    drawn = random.Random(0)
    with (folder / "flat.jsonl").open("w") as flat, (folder / "annotated.jsonl").open("wb") as annotated:
        for i in range(prompts):
            image = f"images/{i // 2:07d}.jpg"
            question = f"Question {i}: {' '.join(drawn.choices(WORDS, k=20))}?"
            answers = [" ".join(drawn.choices(WORDS, k=drawn.randint(15, 75))) for _ in range(N)]
            scores = [{name: drawn.choice((0, 1, 2, 3, 3, 4)) for name in ATTRIBUTES} for _ in range(N)]
            for answer, given in zip(answers, scores, strict=True):
                row = {"image": image, "prompt": question, "response": answer, **given}
                flat.write(json.dumps(row, ensure_ascii=False) + "\n")
            annotated.write(record(i, image, question, answers, scores).to_line())


def record(i: int, path: str, question: str, answers: list[str], scores: list[dict[str, int]]) -> Annotated:
    """As the stages `sample` and `annotate` write it."""
    image = Image(path=path, sha256=hashlib.sha256(path.encode()).hexdigest())
    prompt = Prompt.of(
        (Turn(role="user", text=f"<image>\n{question}", images=(image,)),),
        source=("scigraphqa", "lrv")[i % 2],
        source_id=str(i),
    )
    completions = tuple(
        Completion.of(
            prompt_id=prompt.id, model="0123456789abcdef", index=k, text=answer, seed=i, finish_reason="stop",
            decoding={"temperature": 0.7, "max_new_tokens": 1024}, n_tokens=len(answer) // 4,
        )
        for k, answer in enumerate(answers)
    )  # fmt: skip
    ratings = tuple(
        Rating(completion_id=c.id, scores=given, rationale="Names the figure, misses the axis.")
        for c, given in zip(completions, scores, strict=True)
    )
    annotation = Annotation(
        id=content_id([prompt.id, 0]), prompt_id=prompt.id, mode="listwise", pass_index=0,
        shown_order=tuple(c.id for c in completions[::-1]), ratings=ratings, backend="gemini", model="gemini-2.5-pro",
        rubric=HELPSTEER.name, rubric_sha256=HELPSTEER.sha256, request_sha256=image.sha256,
        usage={"prompt_tokens": 1200, "completion_tokens": 300}, cost_usd=0.004,
    )  # fmt: skip
    return Annotated(prompt=prompt, completions=completions, annotations=(annotation,))


def write_parquet(folder: Path) -> None:
    """flat.jsonl as parquet, as `datasets` would have it."""
    import pyarrow.json
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.json.read_json(folder / "flat.jsonl"), folder / "flat.parquet")
