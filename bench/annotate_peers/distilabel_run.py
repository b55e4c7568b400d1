"""distilabel on the benchmark's rows; run inside its own environment.  distilabel_run.py ROWS OUT BASE_URL RPM

As its documentation shows it: one task, defaults throughout (batches of 50, 6 tries per request, no notion of a rate).
"""

from __future__ import annotations

import base64
import json
import sys
from importlib.metadata import version
from pathlib import Path

from distilabel.models.llms import OpenAILLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts
from distilabel.steps.tasks import TextGenerationWithImage


def main() -> None:
    rows_file, out_file, base_url = sys.argv[1:4]
    rows = [json.loads(line) for line in Path(rows_file).read_text().splitlines()]
    data = [
        {
            "key": row["key"],
            "instruction": row["before"] + row["after"],
            "image": base64.b64encode(Path(row["image"]).read_bytes()).decode(),
        }
        for row in rows
    ]
    with Pipeline(name="bench") as pipeline:
        load = LoadDataFromDicts(data=data)
        rate = TextGenerationWithImage(
            llm=OpenAILLM(
                model="judge",
                base_url=base_url,
                api_key="none",
                generation_kwargs={"max_new_tokens": 2048, "temperature": 0.0},
            ),
            system_prompt=rows[0]["system"],
            image_type="base64",
            add_raw_input=False,  # it cannot write a text and a list of parts into one column (1.5.3)
        )
        load >> rate
    found = pipeline.run(use_cache=False)["default"]["train"]
    with Path(out_file).open("w") as stream:
        for row in found:
            stream.write(json.dumps({"key": row["key"], "text": row["generation"]}) + "\n")
    print(json.dumps({"version": f"distilabel {version('distilabel')}"}))


if __name__ == "__main__":
    main()
