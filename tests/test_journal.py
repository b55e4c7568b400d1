"""The journal: what is appended survives a kill, half a line does not count, and nobody else may write."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from annotate.errors import UserError
from annotate.journal import Journal, read_journal

ROOT = Path(__file__).parents[1]

APPEND_FOREVER = """
import sys
from pathlib import Path
from annotate.journal import Journal
with Journal(Path(sys.argv[1])) as journal:
    n = len(journal.lines)
    while True:
        journal.append(f"unit-{n}", {"n": n, "text": "x" * 20_000})
        print(n, flush=True)
        n += 1
"""


def write(path: Path, **lines: object) -> None:
    with Journal(path) as journal:
        for key, line in lines.items():
            journal.append(key, {"value": line})


def test_lines_are_there_when_opened_again(tmp_path: Path) -> None:
    write(tmp_path / "j.jsonl", a=1, b=2)
    with Journal(tmp_path / "j.jsonl") as journal:
        assert journal.lines == {"a": {"value": 1}, "b": {"value": 2}}
        assert set(journal.seconds) == {"a", "b"}
    assert read_journal(tmp_path / "j.jsonl") == {"a": {"value": 1}, "b": {"value": 2}}
    assert read_journal(tmp_path / "no.jsonl") == {}


def test_the_last_line_of_a_key_counts(tmp_path: Path) -> None:
    write(tmp_path / "j.jsonl", a="failed")
    write(tmp_path / "j.jsonl", a="done")
    assert read_journal(tmp_path / "j.jsonl") == {"a": {"value": "done"}}


def test_a_line_reads_back_as_it_was_handed_out(tmp_path: Path) -> None:
    """A first run compiles from what it appended, a resumed one from what it reads: they must be the same values."""
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.append("a", {"z": (1, 2), "a": 0.1, "text": "ü\n"})
        first = journal.lines["a"]
    assert list(first) == list(read_journal(tmp_path / "j.jsonl")["a"])
    assert first == {"a": 0.1, "text": "ü\n", "z": [1, 2]}


@pytest.mark.parametrize("cut", [1, 7, 30])
def test_half_a_line_at_the_end_is_cut_off_and_kept_aside(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "j.jsonl"
    write(path, a=1, b=2)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert read_journal(path) == {"a": {"value": 1}}  # looking repairs nothing
    assert path.read_bytes() == whole[:-cut]
    with Journal(path) as journal:
        assert journal.lines == {"a": {"value": 1}}
        journal.append("b", {"value": 2})
    assert read_journal(path) == {"a": {"value": 1}, "b": {"value": 2}}
    second = whole.splitlines(keepends=True)[1]
    assert (tmp_path / ".j.jsonl.torn").read_bytes() == second[:-cut] + b"\n"


def test_half_a_line_in_the_middle_is_told(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    write(path, a=1, b=2, c=3)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:10] + b"\n" + lines[2])
    with pytest.raises(UserError, match=r"j\.jsonl:2: not a line of this journal.*Delete that line"):
        Journal(path).__enter__()
    with pytest.raises(UserError, match=r"j\.jsonl:2"):
        read_journal(path)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from annotate.journal import Journal\n"
        "Journal(Path(sys.argv[1])).__enter__()"
    )
    with Journal(tmp_path / "j.jsonl"):
        second = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "j.jsonl")], cwd=ROOT, capture_output=True, text=True
        )
    assert second.returncode == 1
    assert "j.jsonl: another process is writing to it" in second.stderr


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """A limit on the file's size stands in for the disk's: the write is cut short in the middle of a line."""
    script = (
        "import resource, sys; from pathlib import Path; from annotate.journal import Journal\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "with Journal(Path(sys.argv[1])) as journal:\n"
        "    for n in range(99): journal.append(str(n), {'text': 'x' * 1000})"
    )
    path = tmp_path / "j.jsonl"
    ended = subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert "File too large" in ended.stderr
    assert sorted(read_journal(path)) == ["0", "1", "2", "3"]
    assert path.read_bytes().endswith(b"}\n")


def test_what_was_appended_survives_kill_9(tmp_path: Path) -> None:
    """Killed at random moments while appending 20 kB lines; every line that was acknowledged is there afterwards."""
    path = tmp_path / "j.jsonl"
    draw = random.Random(0)
    acknowledged = -1
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", APPEND_FOREVER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()  # it is at work
        time.sleep(draw.uniform(0.0, 0.05))
        os.kill(process.pid, signal.SIGKILL)
        told = process.stdout.read().split()
        process.stdout.close()
        process.wait()
        acknowledged = max([acknowledged, *map(int, told)])
        kept = read_journal(path)
        assert [kept[f"unit-{n}"]["n"] for n in range(acknowledged + 1)] == list(range(acknowledged + 1))
    with Journal(path) as journal:
        journal.append("last", {})
    for line in path.read_text().splitlines():
        json.loads(line)
