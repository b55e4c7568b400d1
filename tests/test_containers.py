"""Rows of a file, whichever container: what is read is what was written, and damage is told with its place."""

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from align.formats.containers import container_of, read_rows, write_rows
from annotate.errors import UserError

ROWS = [{"id": 1, "text": "naïve <image>\n"}, {"id": 2, "text": "", "more": [1.5, None, {"a": "b"}]}]


def values(path: Path) -> list[object]:
    return [placed.value for placed in read_rows(path)]


@pytest.mark.parametrize("container", ["json", "jsonl", "parquet"])
def test_what_is_written_is_read_again(tmp_path: Path, container: str) -> None:
    rows = [{"id": i, "text": "é" * i, "images": [{"bytes": None, "path": "a.png"}]} for i in range(600)]
    path = tmp_path / f"rows.{container}"
    with write_rows(path, container) as put:
        for row in rows:
            put(row)
    assert container_of(path) == container
    assert values(path) == rows
    assert [placed.number for placed in read_rows(path)] == list(range(1, 601))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "data",
    [
        json.dumps(ROWS).encode(),
        json.dumps(ROWS, indent=2).encode(),
        b"\xef\xbb\xbf" + json.dumps(ROWS).encode(),
        b"\n".join(json.dumps(row).encode() for row in ROWS),
        b"\xef\xbb\xbf" + b"\r\n".join(json.dumps(row).encode() for row in ROWS) + b"\r\n\r\n",
    ],
    ids=["list", "indented", "list with BOM", "lines, the last without its end", "lines from Windows"],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_one_set_of_rows_in_its_many_dresses(tmp_path: Path, data: bytes, zipped: bool) -> None:
    path = tmp_path / "rows"
    path.write_bytes(gzip.compress(data) if zipped else data)
    assert values(path) == ROWS


def test_a_bad_line_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a":1}\n{"a":\n\n{"a":NaN}\n{"a":"\xff"}\n{"a":2}\n')
    placed = list(read_rows(path))
    assert [(p.number, p.value) for p in placed if not p.fault] == [(1, {"a": 1}), (6, {"a": 2})]
    assert [p.number for p in placed if p.fault] == [2, 4, 5]
    assert "NaN is not JSON" in placed[2].fault and "UTF-8" in placed[3].fault


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("none.json", None, "cannot be read (No such file or directory); is the path right?"),
        ("empty.json", b" \n", "empty; expected a JSON list, JSON Lines or parquet"),
        ("no_rows.json", b"[]", "the list is empty"),
        ("cut.json", b'[\n{"a": 1},\n{"a"', ":3: not a whole JSON list"),
        ("cut.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 1000, mtime=0)[:60], "gzip"),
        ("short.jsonl.gz", gzip.compress(b'{"a": 1}', mtime=0)[:14], "damaged gzip"),
        ("cut.json.gz", gzip.compress(json.dumps(ROWS * 1000).encode(), mtime=0)[:-20], "damaged gzip"),
        ("damaged.parquet", b"PAR1" + b"\0" * 40, "damaged parquet"),
    ],
)
def test_a_file_that_is_none_is_a_clear_error(tmp_path: Path, name: str, data: bytes | None, says: str) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        list(read_rows(path))
    assert str(caught.value).startswith(str(path)) and says in str(caught.value)


def test_nothing_half_written_is_left_by_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text("[1]")
    with pytest.raises(RuntimeError), write_rows(path, "json") as put:
        put({"a": 1})
        raise RuntimeError("the power went out")
    assert path.read_text() == "[1]" and [file.name for file in tmp_path.iterdir()] == ["rows.json"]


def test_bytes_do_not_go_into_json(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"give OUT the ending \.parquet"),
        write_rows(tmp_path / "a.jsonl", "jsonl") as put,
    ):
        put({"image": {"bytes": b"\x89PNG"}})


def test_parquet_keeps_every_column_of_the_first_rows_and_refuses_to_lose_later_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with write_rows(path, "parquet") as put:
        put({"a": 1, "o": {"x": 1}, "n": None})
        put({"a": 2, "b": "late", "o": {"y": 2}})
    assert values(path) == [
        {"a": 1, "o": {"x": 1, "y": None}, "n": None, "b": None},
        {"a": 2, "o": {"x": None, "y": 2}, "n": None, "b": "late"},
    ]
    for late in ({"a": 3, "c": 1}, {"a": 3, "o": {"z": 1}}):
        with pytest.raises(UserError, match="more keys than the first"), write_rows(path, "parquet") as put:
            for i in range(256):
                put({"a": i, "o": {"x": 1}})
            put(late)
    assert len(values(path)) == 2


def test_rows_that_do_not_fit_one_schema_are_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with pytest.raises(UserError, match="do not fit one parquet schema"), write_rows(path, "parquet") as put:
        put({"a": 1})
        put({"a": {"b": 1}})
    assert not list(tmp_path.iterdir())


def test_half_of_a_surrogate_pair_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a":"\\ud83e"}\n{"a":1}\n')
    bad, good = read_rows(tmp_path / "a.jsonl")
    assert "surrogate" in bad.fault and good.value == {"a": 1}


def test_a_list_may_be_left_early(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS * 1000))
    rows = read_rows(path)
    assert next(rows).value == ROWS[0]
    rows.close()
    path.unlink()


def test_a_number_beyond_all_others_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a":1e999}\n{"a":1e99}\n')
    bad, good = read_rows(tmp_path / "a.jsonl")
    assert "1e999 is greater than any number" in bad.fault and good.value == {"a": 1e99}


def test_text_of_parquet_that_is_no_text_is_a_bad_row(tmp_path: Path) -> None:
    column = pyarrow.array([b"good", b"\xff\xfe", b"fine"], pyarrow.binary()).view(pyarrow.string())
    pyarrow.parquet.write_table(pyarrow.table({"a": column}), tmp_path / "a.parquet")
    first, bad, last = read_rows(tmp_path / "a.parquet")
    assert (first.value, last.value) == ({"a": "good"}, {"a": "fine"}) and "UTF-8" in bad.fault


def test_what_is_written_is_not_said_to_be_compressed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"leave \.gz away"), write_rows(tmp_path / "a.jsonl.gz", "jsonl"):
        pass
