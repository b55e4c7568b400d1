"""What holds over all formats: a row is known by one of them alone, and content has one id whatever its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from align.formats import formats
from align.formats.containers import read_rows
from align.formats.format import Format
from align.formats.parts import pair_from, placed
from align.formats.reading import format_of, read_file
from align.formats.store import ImageStore
from align.formats.writing import write_file
from annotate.records import Example, PreferencePair, Prompt

FIXTURES = Path(__file__).parent / "formats"
FILES = sorted(
    p for p in FIXTURES.rglob("*") if p.suffix in (".json", ".jsonl", ".parquet") and p.stem != "dataset_info"
)


def form_of(file: Path) -> str:
    """The format that a fixture is of: the longest name that the file's begins with."""
    return max((name for name in formats() if file.name.startswith(name)), key=len)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.name))
def test_a_fixture_is_known_by_its_format_alone(file: Path) -> None:
    first = next(iter(read_rows(file))).value
    assert [name for name, form in formats().items() if form.recognises(first)] == [form_of(file)]
    assert format_of(file).name == form_of(file)


def test_every_format_around_llava_has_a_fixture() -> None:
    names = {"llava", "mllm_dpo", "povid", "vl_rlhf", "rlaif_v", "llava_human_preference"}
    assert names <= {form_of(file) for file in FILES}


def of_kind(kind: str) -> list[Format]:
    return [form for form in formats().values() if kind in form.kinds and form.read and form.write]


def asked(images: ImageStore, text: str = "<image>\nWhat flies in the «sky»?") -> Prompt:
    return Prompt.of(placed([("user", text)], [images.named("images/kite.png")] * text.count("<image>")))


@pytest.mark.parametrize("form", of_kind("pairs"), ids=lambda form: str(form.name))
def test_one_pair_has_one_id_whatever_its_file(form: Format, tmp_path: Path) -> None:
    images = ImageStore(root=FIXTURES, folder=tmp_path / "images")
    pair = pair_from(asked(images), "A red kite.", "A plane.", rule="preference")
    out = tmp_path / f"pairs.{form.container}"
    write_file([pair], out, form, images=images)
    (again,) = read_file(out, images=images)  # known by its keys
    assert isinstance(again, PreferencePair)
    assert again.prompt.id == pair.prompt.id == "8ced7106a50ff206"
    assert [i.sha256 for i in again.prompt.images] == [i.sha256 for i in pair.prompt.images]
    assert (again.chosen.text, again.rejected.text) == ("A red kite.", "A plane.")
    assert again.id == pair.id


@pytest.mark.parametrize("form", of_kind("examples"), ids=lambda form: str(form.name))
def test_one_question_has_one_id_in_every_file_for_fine_tuning(form: Format, tmp_path: Path) -> None:
    images = ImageStore(root=FIXTURES, folder=tmp_path / "images")
    example = Example.of(prompt=asked(images), completion="A red kite.", source="rejection")
    out = tmp_path / f"examples.{form.container}"
    write_file([example], out, form, images=images)
    (again,) = read_file(out, form=form.name, images=images)
    assert isinstance(again, Example)
    assert (again.prompt.id, again.completion) == (example.prompt.id, "A red kite.")


def test_reference_log_probabilities_travel_between_the_tools_that_store_them(tmp_path: Path) -> None:
    source = json.loads((FIXTURES / "mllm_dpo.json").read_text())[:1]
    (tmp_path / "mllm.json").write_text(json.dumps(source))
    images = ImageStore(root=FIXTURES, folder=tmp_path / "images")
    known = formats()
    write_file(
        read_file(tmp_path / "mllm.json", images=images), tmp_path / "a.parquet", known["rlaif_v"], images=images
    )
    write_file(read_file(tmp_path / "a.parquet", images=images), tmp_path / "b.json", known["mllm_dpo"], images=images)
    (row,) = json.loads((tmp_path / "b.json").read_text())
    kept = {"question", "chosen", "rejected", *(key for key in source[0] if key.startswith("ref_"))}
    assert {key: row[key] for key in kept} == {key: source[0][key] for key in kept}
