"""What is written in an afternoon: the openai client, 5 retries, 64 in flight.  naive_run.py ROWS OUT BASE_URL RPM"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI, OpenAIError


async def ask(client: AsyncOpenAI, gate: asyncio.Semaphore, row: dict[str, Any]) -> dict[str, Any]:
    image = base64.b64encode(Path(row["image"]).read_bytes()).decode()
    content = [
        {"type": "text", "text": row["before"]},
        {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{image}"}},
        {"type": "text", "text": row["after"]},
    ]
    messages = [{"role": "system", "content": row["system"]}, {"role": "user", "content": content}]
    async with gate:
        try:
            reply = await client.chat.completions.create(
                model="judge",
                messages=messages,
                temperature=0.0,
                max_tokens=2048,  # type: ignore[arg-type]
            )
        except (OpenAIError, ValueError):
            return {"key": row["key"], "text": None}
    return {"key": row["key"], "text": reply.choices[0].message.content}


async def main() -> None:
    rows_file, out_file, base_url = sys.argv[1:4]
    rows = [json.loads(line) for line in Path(rows_file).read_text().splitlines()]
    client = AsyncOpenAI(api_key="none", base_url=base_url, max_retries=5, timeout=60)
    gate = asyncio.Semaphore(64)
    found = await asyncio.gather(*(ask(client, gate, row) for row in rows))
    Path(out_file).write_text("".join(json.dumps(row) + "\n" for row in found))
    print(json.dumps({"version": f"naive script, openai {version('openai')}"}))


if __name__ == "__main__":
    asyncio.run(main())
