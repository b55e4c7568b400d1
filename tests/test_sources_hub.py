"""`--hub`: rows through `datasets`, from a folder laid out like the source's repository; and what is said without one.

In one process of its own, as importing `datasets` takes seconds and leaves settings behind.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from source_scripts import FIXTURES, IMAGES, ROOT, TRAIN2017, fixture, manifest, prepare, records, write_parquet

RUN = """
import sys
sys.path.insert(0, "data")
from importlib import import_module
from source_command import main
for name, *options in {calls!r}:
    print(name, main(import_module("prepare_" + name).SOURCE, ["--quiet", *options]), flush=True)
"""


def run(tmp_path: Path, calls: list[list[str]]) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "PYTHONWARNINGS": "ignore"}
    code = RUN.format(calls=calls)
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


def card(folder: Path, **configs: str) -> Path:
    """The head of a dataset card: which files are which config's training split."""
    lines = [f"- config_name: {n}\n  data_files:\n  - split: train\n    path: {p}" for n, p in configs.items()]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("---\nconfigs:\n" + "\n".join(lines) + "\n---\n", encoding="utf-8")
    return folder


def arc_columns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """ARC as its hub repository has it: choices in columns."""
    return [
        {
            "id": row["id"],
            "question": row["question"]["stem"],
            "choices": {key: [choice[key] for choice in row["question"]["choices"]] for key in ("text", "label")},
            "answerKey": row["answerKey"],
        }
        for row in rows
    ]


def with_image(row: dict[str, Any]) -> dict[str, Any]:
    image = (TRAIN2017 / f"{row['image_id']:012}.jpg").read_bytes()
    kept = {key: value for key, value in row.items() if key not in ("split", "image_id")}
    return {"image": {"bytes": image, "path": None}, **kept, "direct_answers": str(row["direct_answers"])}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """All calls in one process: the folder of their outputs, what was printed, what was said of errors."""
    tmp = tmp_path_factory.mktemp("hub")
    write_parquet(tmp / "sci/data/train-00000-of-00001.parquet", fixture("scigraphqa", "scigraphqa.jsonl"))
    card(tmp / "arc", **{"ARC-Challenge": "ARC-Challenge/train-*", "ARC-Easy": "ARC-Easy/train-*"})
    for name in ("ARC-Challenge", "ARC-Easy"):
        rows = arc_columns(fixture("arc", name, f"{name}-Train.jsonl"))
        write_parquet(tmp / f"arc/{name}/train-00000-of-00001.parquet", rows)
    aokvqa = [with_image(row) for row in fixture("aokvqa", "aokvqa_v1p0_train.json")]
    write_parquet(tmp / "aokvqa/data/train-00000-of-00001.parquet", aokvqa)
    bus = {"bytes": (TRAIN2017 / "000000033471.jpg").read_bytes(), "path": None}
    texts = [{"user": "Is there a lion?", "assistant": "No."}, {"user": "Is the bus red?", "assistant": "Yes."}]
    write_parquet(tmp / "fine/lrv/train-0.parquet", [{"images": [bus], "texts": texts, "source": "lrv"}])
    card(tmp / "fine", **{"lrv_normal(filtered)": "lrv/train-*"})
    sci_images = str(IMAGES / "scigraphqa")
    done = run(
        tmp,
        [
            ["scigraphqa", "--hub", f"{tmp}/sci", "--n", "4", "--image-root", sci_images, "--out", f"{tmp}/sci.jsonl"],
            ["scigraphqa", "--hub", f"{tmp}/sci", "--stream", "--n", "4", "--image-root", sci_images,
             "--out", f"{tmp}/stream.jsonl"],
            ["arc", "--hub", f"{tmp}/arc", "--out", f"{tmp}/arc.jsonl"],
            ["aokvqa", "--hub", f"{tmp}/aokvqa", "--image-dir", f"{tmp}/img", "--out", f"{tmp}/aokvqa.jsonl"],
            ["lrv", "--hub", f"{tmp}/fine", "--n", "2", "--image-dir", f"{tmp}/img", "--out", f"{tmp}/lrv.jsonl"],
            ["llava_instruct", "--hub", str(FIXTURES / "llava_instruct"), "--image-root", str(TRAIN2017),
             "--out", f"{tmp}/llava.jsonl"],
            ["helpsteer", "--hub", str(FIXTURES / "helpsteer"), "--out", f"{tmp}/helpsteer.jsonl"],
            ["orca", "--hub", "--out", f"{tmp}/orca.jsonl"],
        ],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return tmp, done.stdout, done.stderr


def same_as_folder(ran: tuple[Path, str, str], out: str, name: str, *options: str | Path) -> None:
    tmp = ran[0]
    assert prepare(name, tmp / "folder.jsonl", "--folder", FIXTURES / name, *options) == 0
    assert (tmp / out).read_bytes() == (tmp / "folder.jsonl").read_bytes()


def test_parquet_of_the_hub_is_what_the_folder_gives(ran: tuple[Path, str, str]) -> None:
    same_as_folder(ran, "sci.jsonl", "scigraphqa", "--n", "4", "--image-root", IMAGES / "scigraphqa")
    told = manifest(ran[0] / "sci.jsonl")["origin"]["hub"][0]
    assert told["split"] == "train" and told["commit"] is None  # a folder has no commit: its files' hashes instead
    assert [file["name"] for file in told["files"]] == ["train-00000-of-00001.parquet"]


def test_streaming_gives_the_same(ran: tuple[Path, str, str]) -> None:
    assert (ran[0] / "stream.jsonl").read_bytes() == (ran[0] / "sci.jsonl").read_bytes()


def test_several_configs_are_read_each_with_its_type(ran: tuple[Path, str, str]) -> None:
    same_as_folder(ran, "arc.jsonl", "arc")


def test_json_files_of_the_hub_by_their_names(ran: tuple[Path, str, str]) -> None:
    same_as_folder(ran, "llava.jsonl", "llava_instruct", "--image-root", TRAIN2017)


def test_several_rows_of_the_hub_become_one(ran: tuple[Path, str, str]) -> None:
    same_as_folder(ran, "helpsteer.jsonl", "helpsteer")


def test_images_of_the_hub_are_written_by_hash(ran: tuple[Path, str, str]) -> None:
    found = records(ran[0] / "aokvqa.jsonl")
    assert len(found) == 2
    for record in found:
        image = record["turns"][0]["images"][0]
        assert image["path"] == f"{image['sha256'][:2]}/{image['sha256']}.jpg"
        assert (ran[0] / "img" / image["path"]).is_file()


def test_lrv_of_the_hub_has_no_polarity(ran: tuple[Path, str, str]) -> None:
    assert {record["meta"]["polarity"] for record in records(ran[0] / "lrv.jsonl")} == {"unknown"}
    assert len(records(ran[0] / "lrv.jsonl")) == 2


def test_without_a_network_it_says_what_to_do(ran: tuple[Path, str, str]) -> None:
    assert "orca 2" in ran[1].splitlines()
    assert "Open-Orca/OpenOrca (split train, files 1M-GPT4-Augmented.parquet" in ran[2]
    assert "use --folder" in ran[2] and "Traceback" not in ran[2]
    assert not (ran[0] / "orca.jsonl").exists()


def test_every_subset_can_be_asked_of_the_hub() -> None:
    from list_sources import all_sources

    without = [
        f"{source.name} {name}"
        for source in all_sources().values()
        for name, parts in source.subsets.items()
        if not all(part.hub for part in parts if part.required)
    ]
    assert without == []
