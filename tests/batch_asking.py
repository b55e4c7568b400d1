"""What the tests of batch jobs ask, and how: requests whose right answers are known, through the real backends.

python -m batch_asking       lives that are to be killed; see `test_batch_restarts.py`
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any

import certifi
from loopback import expected_answer

from annotate.journal import Journal
from annotate.protocol import Message, Outcome, Part, Reply, Request
from annotate.records import Prompt, Turn

KEY = {"gemini_batch": "GEMINI_API_KEY", "openai_batch": "OPENAI_API_KEY"}
WIRE = {"gemini_batch": "gemini_batches", "openai_batch": "openai_batches"}


def few_certificates(folder: Path) -> dict[str, str]:
    """Environment in which a client does not begin with a quarter of a second of reading certificates."""
    first, end = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----")[:2]
    folder.mkdir(exist_ok=True)
    (folder / "one.pem").write_text(first + end + "\n")
    return {"SSL_CERT_FILE": str(folder / "one.pem")}


def png() -> bytes:
    from PIL import Image

    made = BytesIO()
    Image.new("RGB", (2, 2), "red").save(made, "PNG")
    return made.getvalue()


def request(number: int, *, scenario: str = "", image: bytes | None = None, text: str = "") -> Request:
    """The n-th question; `scenario` says what the service makes of it."""
    text = text or f"Question {number}?" + (f" [[scenario:{scenario}]]" if scenario else "")
    parts = [Part(kind="text", text=text)] + ([Part(kind="image", image=0)] if image else [])
    return Request(
        messages=(Message(role="user", parts=tuple(parts)),),
        images=(image,) if image else (),
        decoding={"temperature": 0.0, "max_output_tokens": 256},
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        prompt=Prompt.of((Turn(role="user", text=f"Question {number}?"),)),
    )


def right(asked: Request) -> str:
    """The answer that the service derives from what it received, if it received what was asked."""
    return expected_answer(asked.messages[0].parts[0].text, [hashlib.sha256(i).hexdigest() for i in asked.images])


def backend(name: str, url: str, **options: Any) -> Any:
    """With waits of a test's length."""
    options = {"quiet_seconds": 0.02, "poll_seconds": 0.01, **options}
    if name == "gemini_batch":
        from annotate.backends.gemini_batch import GeminiBatch

        return GeminiBatch(model="gemini-2.5-pro", base_url=url, thinking_budget=0, **options)
    from annotate.backends.openai_batch import OpenAIBatch

    return OpenAIBatch(model="gpt-4o", base_url=f"{url}/v1", **options)


async def ask(annotator: Any, workspace: Path, requests: Sequence[Request]) -> list[Reply]:
    """All at once, as a run asks a batch backend."""
    workspace.mkdir(parents=True, exist_ok=True)
    await annotator.open(workspace)
    try:
        return list(await asyncio.gather(*(annotator.reply(asked) for asked in requests)))
    finally:
        await annotator.close()


async def ask_as_a_run(name: str, url: str, workspace: Path, n: int) -> None:
    """Ask n questions, put each answer into a journal, and ask again only what failed or is not there."""
    workspace.mkdir(parents=True, exist_ok=True)
    with Journal(workspace / "journal.jsonl") as journal:
        annotator = backend(name, url, max_lines=10, poll_seconds=0.06)
        await annotator.open(workspace)

        async def settle(asked: Request) -> None:
            while asked.sha256 not in journal.lines:
                reply = await annotator.reply(asked)
                if reply.outcome is Outcome.OK:
                    journal.append(asked.sha256, {"text": reply.text})
                else:
                    assert reply.outcome is Outcome.TRANSIENT, reply

        await asyncio.gather(*(settle(request(i)) for i in range(n)))
        await annotator.close()


async def ask_with_images(name: str, url: str, workspace: Path, n: int, size: int) -> None:
    """Ask n questions, each with an image of its own of so many bytes; print what it took and what came."""
    workspace.mkdir(parents=True, exist_ok=True)
    annotator = backend(name, url, quiet_seconds=1.0)
    await annotator.open(workspace)
    small = png()

    async def settle(number: int) -> bool:
        image = small + random.Random(number).randbytes(size - len(small))  # what follows a PNG's end is not looked at
        answer = expected_answer(f"Question {number}?", [hashlib.sha256(image).hexdigest()])
        asked = annotator.reply(request(number, image=image))
        del image
        return bool((await asked).text == answer)

    good = await asyncio.gather(*(settle(number) for number in range(n)))
    await annotator.close()
    print(json.dumps({"right": sum(good), "peak_mb": getrusage(RUSAGE_SELF).ru_maxrss / 1024}))


def main() -> None:
    """For each life on standard input, `{"name", "url", "workspace", "n", "seconds"}`, tell how it ended.

    Lives are forked, so that none begins with a second of importing, and killed after `seconds`. The first is led here,
    to its end: what it has imported, the others have.
    """
    for number, line in enumerate(sys.stdin):
        life = json.loads(line)
        asked = ask_as_a_run(life["name"], life["url"], Path(life["workspace"]), life["n"])
        if number == 0:
            asyncio.run(asked)
            print(0, flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            asyncio.run(asked)
            os._exit(0)
        asked.close()
        end = time.monotonic() + life["seconds"]
        while (found := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() < end:
            time.sleep(0.002)
        if found[0] == 0:
            os.kill(pid, signal.SIGKILL)
            found = os.waitpid(pid, 0)
        print(found[1], flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        asyncio.run(ask_with_images(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])))
    else:
        main()
