"""GQA (arXiv:1902.09506): one-word questions about photographs, right where the words are the same.

    questions    testdev_balanced_questions.json {"201307251":{"question":"…","imageId":"n161313","answer":"no",
                 "types":{"structural":"verify",…}}}, or LLaVA's JSON Lines beside it as labels
    answers      testdev_balanced_predictions.json [{"questionId":"201307251","prediction":"no"}], or JSON Lines
                 {"question_id":…,"text":"No."}

Lower case and no period at the end, as LLaVA writes predictions; nothing else is forgiven. `binary` are questions whose
structure is not `query`, as in GQA's own evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence

from align.benchmarks.files import Line, load_json
from align.benchmarks.measures import mean, within
from align.benchmarks.published import BY_WORD, Source, bare, gathered_rows, row_of, scorer_of
from align.benchmarks.rows import Question, Row
from align.benchmarks.suite import Score, Suite
from annotate.errors import UserError

GQA_EXACT = "exact-lower-no-period/1"


def gqa_normal(text: str) -> str:
    """Lower case, no white space around, no period at the end."""
    return text.strip().rstrip(".").lower()


def score_gqa(row: Row, outputs: Sequence[str]) -> Score:
    """1 if the answer is the expected one; an empty answer has no score."""
    if not outputs[0].strip():
        return Score(value={}, state="unparsed")
    return Score(value={"accuracy": float(gqa_normal(outputs[0]) == gqa_normal(row.questions[0].answer))})


def read_gqa(source: Source) -> list[Row]:
    """All questions of the file, or of the hub's `*_instructions` (whose images are a data set of their own)."""
    if "hub" in source:
        return gathered_rows(source.table(), lambda line: _row(source, line))
    found = load_json(source["questions"])
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise UserError(f"{source['questions']}: expected GQA's questions, an object by question id")
    lines = (Line(source["questions"], i, {"id": key, **asked}) for i, (key, asked) in enumerate(found.items(), 1))
    return gathered_rows(lines, lambda line: _row(source, line))


def _row(source: Source, line: Line) -> Row:
    text, answer = bare(line.text("question")) + BY_WORD, line.text("answer")
    types = line.fields.get("types")
    structure = types.get("structural") if isinstance(types, dict) else None
    image = line.fields.get("image") or f"{line.key('imageId')}.jpg"
    return row_of(
        suite="gqa",
        id=line.key("id", "question_id"),
        text=text,
        image=source.image(image, line),
        question=Question(text=text, kind="open", answer=answer, accepted={"word": answer}),
        category="" if structure is None else "open" if structure == "query" else "binary",
    )


GQA = Suite(
    name="gqa",
    file="gqa",
    text=False,
    parser=GQA_EXACT,
    score=score_gqa,
    measures=(mean("accuracy"), within(mean("accuracy"), "open"), within(mean("accuracy"), "binary")),
    headline="accuracy",
    read=read_gqa,
    roles={"questions": True, "images": True},
)
GQA_SCORER = scorer_of(GQA, "--answers JSON (questionId, prediction) or JSONL (question_id, text) --questions JSON")
