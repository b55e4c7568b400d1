"""OpenOrca: FLAN questions answered with explanations by GPT-4 (1M) or GPT-3.5 (3.2M), after the Orca paper. Text only.

Sight Beyond Text, section 3.3, compares with 80,000 rows of Orca drawn at random: `--n 80000`. A row:

    {"id": "flan.564327", "system_prompt": "You are an AI assistant. …", "question": "…", "response": "…"}
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from source_command import main
from sources import Excluded, Hub, Part, Raw, Row, Source, id_of, optional_text, text_of

from annotate.records import IMAGE_PLACEHOLDER

GPT4, GPT35 = "1M-GPT4-Augmented.parquet", "3_5M-GPT3_5-Augmented.parquet"
ON_HUB, PINNED = "Open-Orca/OpenOrca", "3e85783ecb0db83df8b30dbbd94107857b5ac830"


def read(raw: Raw, part_type: str) -> Iterator[Row | Excluded]:
    own_id, system, question = id_of(raw, "id"), optional_text(raw, "system_prompt"), text_of(raw, "question")
    answer = optional_text(raw, "response")
    if not answer:
        yield Excluded("no answer")
    elif IMAGE_PLACEHOLDER in question + answer + system:
        yield Excluded(f"the text itself holds {IMAGE_PLACEHOLDER}")
    else:
        turns = (*([("system", system)] if system else []), ("user", question), ("assistant", answer))
        yield Row(id=own_id, turns=turns, type=part_type, meta={"task": "instruction"})


_GPT4 = Part(files=(GPT4,), type="gpt4", hub=Hub(id=ON_HUB, data_files=GPT4, revision=PINNED))
_GPT35 = Part(files=(GPT35,), type="gpt35", hub=Hub(id=ON_HUB, data_files=GPT35, revision=PINNED))
SOURCE = Source(
    name="orca",
    title="OpenOrca",
    licence="MIT by its card; the answers are OpenAI's models', under their terms of use",
    url=f"https://huggingface.co/datasets/{ON_HUB}",
    rows=994_896,
    modality="text",
    types=("gpt4", "gpt35"),
    subsets={"gpt4": (_GPT4,), "gpt35": (_GPT35,), "all": (_GPT4, _GPT35)},
    read=read,
)

if __name__ == "__main__":
    sys.exit(main(SOURCE))
