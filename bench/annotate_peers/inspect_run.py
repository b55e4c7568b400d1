"""inspect_ai on the benchmark's rows; run inside its own environment.  inspect_run.py ROWS OUT BASE_URL RPM

Generation alone, nothing is scored; its adaptive concurrency (the default) has to find the rate.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from inspect_ai import Task
from inspect_ai import eval as evaluate
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser, ContentImage, ContentText, GenerateConfig, get_model
from inspect_ai.solver import generate


def sample(row: dict[str, Any]) -> Sample:
    image = base64.b64encode(Path(row["image"]).read_bytes()).decode()
    parts = [
        ContentText(text=row["before"]),
        ContentImage(image=f"data:image/jpeg;base64,{image}"),
        ContentText(text=row["after"]),
    ]
    return Sample(id=row["key"], input=[ChatMessageSystem(content=row["system"]), ChatMessageUser(content=parts)])


def main() -> None:
    rows_file, out_file, base_url = sys.argv[1:4]
    os.environ["BENCH_API_KEY"] = "none"
    rows = [json.loads(line) for line in Path(rows_file).read_text().splitlines()]
    task = Task(
        dataset=MemoryDataset([sample(row) for row in rows]),
        solver=generate(),
        config=GenerateConfig(temperature=0.0, max_tokens=2048),
    )
    model = get_model("openai-api/bench/judge", base_url=base_url, stream=False)
    with tempfile.TemporaryDirectory() as folder:
        (log,) = evaluate(task, model=model, log_dir=folder, display="none", fail_on_error=False)
        texts = {done.id: done.output.completion if done.error is None else None for done in log.samples or []}
    with Path(out_file).open("w") as stream:
        for key, text in texts.items():
            stream.write(json.dumps({"key": key, "text": text}) + "\n")
    print(json.dumps({"version": f"inspect_ai {version('inspect-ai')}"}))


if __name__ == "__main__":
    main()
