"""StrategyQA: yes-or-no questions whose steps are implicit, with the facts they need (Geva et al. 2021). Text only.

One of the three commonsense sets of MLAN (Appendix A, Table 3: 2.3k rows, the whole training file). A row of
`strategyqa_train.json`:

    {"qid": "4fd64bb6ce5b78ab20b6", "term": "Candle", "description": "…", "question": "Could a candle burn …?",
     "answer": false, "facts": ["…", "…"], "decomposition": ["…"], "evidence": […]}
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from source_command import main
from sources import Hub, Part, Raw, Row, Source, id_of, optional_text, text_of, texts_of

from annotate.errors import RecordError


def read(raw: Raw, _type: str) -> Iterator[Row]:
    question, answer = text_of(raw, "question").strip(), raw.get("answer")
    if not isinstance(answer, bool):
        raise RecordError(f"field 'answer' is {answer!r:.40}, neither true nor false")
    facts = raw.get("facts")  # one text in the hub's copy, a list in the published file
    rationale = optional_text(raw, "facts") if isinstance(facts, str) else " ".join(texts_of(raw, "facts"))
    said = "yes" if answer else "no"
    meta = {
        "task": "true_false", "question": question, "answer": said, "rationale": rationale,
        "term": optional_text(raw, "term"),
    }  # fmt: skip
    yield Row(id=id_of(raw, "qid"), turns=(("user", question), ("assistant", said)), meta=meta)


SOURCE = Source(
    name="strategyqa",
    title="StrategyQA",
    licence="MIT by the card of the hub's copy",
    url="https://allenai.org/data/strategyqa (strategyqa_train.json)",
    rows=2_290,
    modality="text",
    note="On the hub the 2,290 published rows are split into train and test, and both are read. `train.json` of\n"
    "github.com/eladsegal/strategyqa is 90% of them, so it is read only when named: --folder .../train.json.",
    subsets={
        "default": (
            Part(
                files=("strategyqa_train.json", "strategyQA_train.json"),
                hub=Hub(
                    id="ChilleD/StrategyQA", split="train+test", revision="705562638fe1d8ca6bb98c66fc8f94d45fda8c83"
                ),
            ),
        )
    },
    read=read,
)

if __name__ == "__main__":
    sys.exit(main(SOURCE))
