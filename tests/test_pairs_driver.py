"""Training sets of whole files: in parts, by several processes, from several formats; faults, signals and kills."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_groups import CLOSE, A, B, C, D, annotated

from align.formats import format_named
from align.formats.grouping import partition_rows, read_grouped, records
from align.formats.store import ImageStore
from align.pairs import Pairs
from align.pairs.build import build_files
from align.pairs.lengths import balanced
from align.workers import crew, stopped_once, unstoppable
from annotate.errors import UserError
from annotate.jsonl import read_lines, read_records, write_records
from annotate.records import PreferencePair, replace

GROUPS = [[A, D], [A, CLOSE], [A, B, C], [C, D, A, CLOSE]]
ROWS = [annotated(f"Question {i}?", GROUPS[i % 4], source=f"s{i % 3}") for i in range(60)]
ALL = Pairs(sets=("preference", "steerlm", "rejection", "hindsight"))
HELPSTEER_NAMES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def flat(i: int) -> list[dict[str, object]]:
    """Question i in HelpSteer's layout: one row per answer."""
    prompt = {"prompt": f"Question {i}?", "image": f"{i % 7}.png"}
    return [
        {**prompt, "response": text, **dict(zip(HELPSTEER_NAMES, scores, strict=True))}
        for text, scores in GROUPS[i % 4]
    ]


def write_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


# -------------------------------------------------------------------------------------------------- parts and workers


@given(
    st.lists(st.sampled_from([b"", b"a", b"\xff\xef\xbb\xbfb" * 3, b"\xef\xbb\xbf"])), st.integers(1, 20), st.booleans()
)
@settings(deadline=None)
def test_parts_that_meet_have_every_line_once(tmp_path_factory, lines, size, ended):
    path = tmp_path_factory.mktemp("parts") / "x"
    path.write_bytes(b"\n".join(lines) + (b"\n" if ended else b""))
    total = path.stat().st_size
    cut = [list(read_lines(path, at, at + size)) for at in range(0, total, size)]
    assert [line for part in cut for _, line in part] == [line for _, line in read_lines(path)]
    assert all([n for n, _ in part] == list(range(1, len(part) + 1)) for part in cut)


@pytest.mark.parametrize("options", [ALL, replace(ALL, length_gap="balance", rejected="all_pairs", max_pairs=3)])
def test_the_files_are_the_same_whatever_the_parts_and_the_workers(tmp_path, options):
    write_records(tmp_path / "a.jsonl", ROWS)
    write_lines(tmp_path / "h.jsonl", [row for i in range(60) for row in flat(i)])
    for name in ("a.jsonl", "h.jsonl"):
        whole = build_files(tmp_path / name, tmp_path / "whole", options, 3)
        assert whole["total"]["annotated"] == 60
        expected = content(tmp_path / "whole")
        assert len(expected["preference.jsonl"].splitlines()) == whole["sets"]["preference"]["rows"]
        for workers, part_bytes in [(1, 1500), (2, 9000)]:
            again = build_files(
                tmp_path / name, tmp_path / "cut", options, 3, workers=workers, part_bytes=part_bytes
            )  # fmt: skip
            assert again == whole and content(tmp_path / "cut") == expected


def test_workers_may_be_started_afresh_as_on_macos(tmp_path):
    write_records(tmp_path / "a.jsonl", ROWS)
    one = build_files(tmp_path / "a.jsonl", tmp_path / "one", ALL, 0)
    spawn = multiprocessing.get_context("spawn")
    two = build_files(tmp_path / "a.jsonl", tmp_path / "two", ALL, 0, workers=2, context=spawn, part_bytes=9000)
    assert one == two and content(tmp_path / "one") == content(tmp_path / "two")


def test_the_bounds_of_balance_are_those_of_the_builders(tmp_path):
    write_records(tmp_path / "a.jsonl", ROWS)
    wanted = Pairs(length_gap="balance", rejected="all_pairs")
    build_files(tmp_path / "a.jsonl", tmp_path / "out", wanted, 0, part_bytes=4000)
    found = balanced(ROWS, wanted, seed=0)
    assert found.length_gap in [(None, high) for high in range(-50, 50)] + [(low, None) for low in range(-50, 50)]
    build_files(tmp_path / "a.jsonl", tmp_path / "given", found, 0)
    assert content(tmp_path / "out") == content(tmp_path / "given")


def test_progress_is_told_in_bytes_of_every_pass(tmp_path):
    path = write_lines(tmp_path / "h.jsonl", [row for i in range(20) for row in flat(i)])
    told: list[tuple[int, int]] = []
    build_files(path, tmp_path / "out", Pairs(), 0, part_bytes=2000, progress=lambda *at: told.append(at))
    size = path.stat().st_size
    assert told == sorted(told) and told[-1] == (2 * size, 2 * size)  # dealt out, then built
    assert {total for _, total in told} == {2 * size} and len(told) == 2 * -(-size // 2000)


# -------------------------------------------------------------------------------------------- one completion a row


def test_groups_come_in_an_order_of_their_own_with_the_numbers_of_their_rows(tmp_path):
    rows = [row for i in range(30) for row in flat(i)]
    helpsteer = format_named("helpsteer")
    seen = []
    for name, order in [("one", rows), ("other", random.Random(0).sample(rows, len(rows)))]:
        path = write_lines(tmp_path / name, order)
        (tmp_path / f"{name}.buckets").mkdir()
        buckets = partition_rows(path, tmp_path / f"{name}.buckets", helpsteer, pytest.fail, lambda done, total: None)
        store, folder = ImageStore(root=None), tmp_path / f"{name}.buckets"
        found = [made for b in range(buckets) for made in records(folder, b, [0], helpsteer, store, pytest.fail)]
        asked = [row["prompt"] for row in order]
        texts = [record.prompt.turns[0].text.removeprefix("<image>\n") for _, record in found]
        assert [number for number, _ in found] == [asked.index(text) + 1 for text in texts]
        seen.append(texts)
    assert seen[0] == seen[1] and sorted(seen[0]) == sorted(f"Question {i}?" for i in range(30))


def test_shuffled_rows_give_the_same_bytes(tmp_path):
    rows = [row for i in range(40) for row in flat(i)]
    write_lines(tmp_path / "in_order.jsonl", rows)
    write_lines(tmp_path / "shuffled.jsonl", random.Random(1).sample(rows, len(rows)))
    for name in ("in_order", "shuffled"):
        build_files(tmp_path / f"{name}.jsonl", tmp_path / name, ALL, 0, part_bytes=3000)
    assert content(tmp_path / "in_order") == content(tmp_path / "shuffled")


def test_a_flat_file_gives_the_pairs_of_its_records(tmp_path):
    path = write_lines(tmp_path / "h.jsonl", [row for i in range(12) for row in flat(i)])
    store = ImageStore(root=None)
    records = list(read_grouped(path, format_named("helpsteer"), store, pytest.fail, lambda done, total: None))
    write_records(tmp_path / "a.jsonl", records)
    for name in ("h", "a"):
        build_files(tmp_path / f"{name}.jsonl", tmp_path / name, ALL, 0)
    assert content(tmp_path / "h") == content(tmp_path / "a")
    made = read_records(tmp_path / "h" / "preference.jsonl", PreferencePair)
    (first,) = [pair for pair in made if pair.prompt.turns[0].text == "<image>\nQuestion 0?"]
    assert (first.chosen.text, first.rejected.text, first.margin) == (A[0], D[0], 7.0)
    assert first.prompt.images[0].path == "0.png"


def test_parquet_and_lists_are_read_as_well(tmp_path):
    import pyarrow
    import pyarrow.parquet

    rows = [row for i in range(12) for row in flat(i)]
    write_lines(tmp_path / "h.jsonl", rows)
    (tmp_path / "h.json").write_text(json.dumps(rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "h.parquet")
    for name in ("h.jsonl", "h.json", "h.parquet"):
        build_files(tmp_path / name, tmp_path / f"{name}.out", ALL, 0, workers=2)
    expected = content(tmp_path / "h.jsonl.out")
    assert content(tmp_path / "h.json.out") == content(tmp_path / "h.parquet.out") == expected


# ------------------------------------------------------------------------------------------------------------- faults


def faults(path: Path, out: Path, **options: object) -> list[str]:
    """What is wrong, with the file's name taken off; the same by one process and by two."""
    told = []
    for workers in (1, 2):
        with pytest.raises(UserError) as caught:
            build_files(path, out, Pairs(), 0, workers=workers, part_bytes=3000, **options)
        told.append([text.removeprefix(f"{path}") for text in caught.value.faults])
    assert told[0] == told[1]
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]  # nothing written, nothing left
    return told[0]


def test_all_faults_of_all_parts_are_told_with_their_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [row.to_line() for row in ROWS]
    lines[4] = lines[4][:-30] + b"\n"
    lines[20] = lines[20].replace(b'"helpfulness":4', b'"helpfulness":7')
    lines[41] = lines[3]
    lines[50] = b"\n"
    lines[59] = lines[59].replace(b'"index":0', b'"index":"0"')
    path.write_bytes(b"".join(lines))
    cut, wide, twice, typed = faults(path, tmp_path / "out")
    assert cut.startswith(":5: not a line of JSON (") and cut.endswith("; cut in half, or not UTF-8?")
    assert wide.startswith(":21: annotation ") and "helpfulness: 7 is not an integer from 0 to 4" in wide
    assert twice == f":42: prompt {ROWS[3].prompt.id} is there twice, first in row 4; merge its annotations"
    assert typed == ":60: annotated/1.completions[0].index: expected int, got str ('0')"


def test_faults_of_flat_rows_are_told_with_their_lines(tmp_path):
    path = tmp_path / "h.jsonl"
    rows = [row for i in range(40) for row in flat(i)]
    texts = [json.dumps(row) for row in rows]
    texts[3] = texts[3][:-9]
    texts[30] = json.dumps({**rows[30], "coherence": 9})
    texts[31] = json.dumps({**rows[31], "coherence": 9.5})
    texts[60] = json.dumps({**rows[60], "votes": 2**64})  # which JSON can say, and a record can keep
    texts[61] = json.dumps({**rows[61], "note": "\ud800"})
    texts[99] = "[]"
    texts[100] = json.dumps({k: v for k, v in rows[100].items() if k != "prompt"})
    path.write_text("\n".join(texts))
    told = faults(path, tmp_path / "out")
    assert [text.split(": ")[0] for text in told] == [":4", ":31", ":32", ":62", ":100", ":101"]
    assert "coherence: 9 is not a whole number from 0 to 4" in told[1]
    assert "half of a surrogate pair" in told[3]
    assert told[4] == ":100: expected an object, got list"
    assert "prompt: missing" in told[5]


def test_a_rubric_of_ones_own_is_held_against_the_scores(tmp_path):
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.jsonl"
    write_records(path, ROWS[:2])
    guide = tmp_path / "narrow.md"
    scales = "\n".join(f"  {name}: {{low: 0, high: 3}}" for name in HELPSTEER_NAMES)
    guide.write_text(f"---\nname: narrow\nattributes:\n{scales}\n---\nRate.\n")
    first, _ = faults(path, tmp_path / "in" / "out", rubric=str(guide))
    assert "helpfulness: 4 is not an integer from 0 to 3" in first


def test_pairs_are_not_made_of_pairs(tmp_path):
    path = tmp_path / "p.jsonl"
    write_records(tmp_path / "a.jsonl", ROWS[:1])
    build_files(tmp_path / "a.jsonl", tmp_path / "out", Pairs(), 0)
    (tmp_path / "in").mkdir()
    path = (tmp_path / "out" / "preference.jsonl").rename(tmp_path / "in" / "p.jsonl")
    (told,) = faults(path, tmp_path / "in" / "out")
    assert told == ": holds preference pairs already; `align doctor` or `align convert` take them"
    path.write_text(json.dumps({"image": "a.png", "prompt": "Q?", "chosen": "x", "rejected": "y"}) + "\n")
    (told,) = faults(path, tmp_path / "in" / "out", form="vl_rlhf")
    assert told == ": holds preference pairs already; `align doctor` or `align convert` take them"
    parquet = Path(__file__).parent / "formats/trl.parquet"
    with pytest.raises(UserError, match=r"trl\.parquet: holds preference pairs already"):
        build_files(parquet, tmp_path / "in" / "out", Pairs(), 0)
    write_records(path, [ROWS[0].prompt])
    (told,) = faults(path, tmp_path / "in" / "out")
    assert told == ": holds prompts without rated answers; `align run RECIPE` samples and annotates some"
    (tmp_path / "out" / "steerlm.jsonl").rename(path)
    (told,) = faults(path, tmp_path / "in" / "out")
    assert told == ": holds examples of fine-tuning, one answer a prompt; `align convert` takes them"


# ---------------------------------------------------------------------------------------------------- signals and kills

SCRIPT = """
import sys
from pathlib import Path
from align.cli import _interrupt
from align.pairs import Pairs
from align.pairs.build import build_files
import signal
signal.signal(signal.SIGTERM, _interrupt)
if __name__ == "__main__":
    build_files(Path(sys.argv[1]), Path(sys.argv[2]), Pairs(), 0, workers=2, part_bytes=int(sys.argv[3]))
"""
COMMAND = "import sys; from align.cli import main; sys.exit(main())"


@pytest.fixture
def running(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    """A run by two workers that takes some seconds, caught when it has begun to write."""
    write_records(tmp_path / "a.jsonl", [annotated(f"{i}?", [A, B, C, D, CLOSE] * 4) for i in range(1500)])
    part_bytes = str(getattr(request, "param", 20_000))
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "a.jsonl"), str(tmp_path / "out"), part_bytes]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
    until(lambda: any(tmp_path.glob(".out.pairs-*/*preference.jsonl")))
    yield process
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stderr is not None
    process.stderr.close()


def until(what) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("again_after", [None, 0, 0.1])
@pytest.mark.parametrize("running", [2_000_000], indirect=True, ids=["large parts"])
def test_an_interrupted_run_leaves_nothing_however_often_one_asks(tmp_path, running, number, again_after):
    """`timeout 300 align pairs ...` makes two signals of one Ctrl-C, and so do people."""
    workers = children(running.pid)
    os.killpg(running.pid, number)  # as the terminal does: to all of them
    if again_after is not None:
        time.sleep(again_after)
        os.killpg(running.pid, number)
    _, said = running.communicate(timeout=20)
    assert running.returncode != 0 and said.count(b"Traceback") == 1 and b"KeyboardInterrupt" in said
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]
    assert len(workers) == 2 and all(map(gone, workers))


@pytest.mark.slow
def test_the_command_says_that_an_interrupted_run_has_written_nothing(tmp_path):
    write_records(tmp_path / "a.jsonl", [annotated(f"{i}?", [A, B, C, D, CLOSE] * 4) for i in range(1500)])
    command = [sys.executable, "-c", COMMAND, "pairs", str(tmp_path / "a.jsonl"), str(tmp_path / "out")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True) as process:
        until(lambda: any(tmp_path.glob(".out.pairs-*/preference.jsonl")))
        for _ in range(2):
            os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (130, b"\ninterrupted; nothing was written\n")
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.slow
@pytest.mark.parametrize("turns", range(0, 400_000, 40_000))
def test_it_is_not_said_that_nothing_was_written_where_all_is(tmp_path, turns):
    write_records(tmp_path / "a.jsonl", ROWS[:8])
    command = [sys.executable, "-c", COMMAND, "pairs", str(tmp_path / "a.jsonl"), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while not (tmp_path / "out/funnel.json").exists():
            pass
        for _ in range(turns):  # moments of different lengths
            pass
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert said in (b"", f"\ninterrupted; all is written to {tmp_path}/out\n".encode())
    assert [p.name for p in tmp_path.rglob(".*")] == []


@pytest.mark.slow
def test_a_killed_worker_is_told_and_nothing_is_written(tmp_path, running):
    os.kill(children(running.pid)[0], signal.SIGKILL)
    _, said = running.communicate(timeout=20)
    assert b"a worker process was killed, perhaps for want of memory; nothing was written" in said
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.slow
def test_what_a_killed_run_left_goes_with_the_next_but_not_that_of_a_living_one(tmp_path, running):
    workers = children(running.pid)
    write_records(tmp_path / "small.jsonl", ROWS[:4])
    build_files(tmp_path / "small.jsonl", tmp_path / "out", Pairs(), 0)
    assert len(list(tmp_path.glob(".out.pairs-*"))) == 1 and running.poll() is None
    running.kill()
    running.wait()
    until(lambda: all(map(gone, workers)))  # they notice by themselves
    assert len(list(tmp_path.glob(".out.pairs-*"))) == 1
    build_files(tmp_path / "small.jsonl", tmp_path / "out", Pairs(), 0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "out", "small.jsonl"]
    assert [k for k, _ in groupby(read_records(tmp_path / "out" / "preference.jsonl", PreferencePair))] != []


# ------------------------------------------------------------------------------------------------------------- a crew


def third(text: str) -> str:
    return text[2]


def test_a_crew_gives_results_in_the_order_of_the_items_and_errors_with_where_they_come_from():
    with stopped_once(), crew(2) as in_order:
        assert list(in_order(len, ["one", "three", "", "seven"])) == [3, 5, 0, 5]
        assert list(in_order(third, ["one"])) == ["e"]
        with pytest.raises(IndexError) as caught:
            list(in_order(third, ["one", "no"]))
    assert "in third" in str(caught.value.__cause__)
    assert multiprocessing.active_children() == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_stop_is_heard_once_while_its_remains_are_cleared_up():
    cleared = []
    with pytest.raises(KeyboardInterrupt), stopped_once():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            cleared.append(True)
    assert cleared == [True]
    with unstoppable():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
