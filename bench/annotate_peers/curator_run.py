"""bespokelabs-curator on the benchmark's rows; run inside its own environment.  curator_run.py ROWS OUT BASE_URL RPM

It is told the rate, as it wants to be; its other defaults stand, but for the tokens per minute, which would slow it.
Needs TELEMETRY_ENABLED=0 and TIKTOKEN_CACHE_DIR (litellm's bundled file) to work without a network.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bespokelabs import curator


class Judge(curator.LLM):  # type: ignore[misc]
    def prompt(self, row: dict[str, Any]) -> Any:
        # Whole messages, because its own Image type cannot be used together with a system prompt (0.1.31).
        image = base64.b64encode(Path(row["image"]).read_bytes()).decode()
        content = [
            {"type": "text", "text": row["before"]},
            {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{image}"}},
            {"type": "text", "text": row["after"]},
        ]
        return [{"role": "system", "content": row["system"]}, {"role": "user", "content": content}]

    def parse(self, row: dict[str, Any], response: str) -> dict[str, Any]:
        return {"key": row["key"], "text": response}


def main() -> None:
    rows_file, out_file, base_url, rpm = sys.argv[1:5]
    rows = [json.loads(line) for line in Path(rows_file).read_text().splitlines()]
    judge = Judge(
        model_name="judge",
        backend="openai",
        generation_params={"temperature": 0.0, "max_tokens": 2048},
        backend_params={
            "base_url": base_url,
            "api_key": "none",
            "max_requests_per_minute": int(float(rpm)),
            "max_tokens_per_minute": 1_000_000_000,
            "require_all_responses": False,
        },
    )
    with tempfile.TemporaryDirectory() as folder:
        found = judge(rows, working_dir=folder).dataset.to_list()
    with Path(out_file).open("w") as stream:
        for row in found:
            stream.write(json.dumps({"key": row["key"], "text": row["text"]}) + "\n")
    print(json.dumps({"version": f"bespokelabs-curator {version('bespokelabs-curator')}"}))


if __name__ == "__main__":
    main()
