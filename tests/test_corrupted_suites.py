"""Any suite about images, asked about corrupted ones: names, what a model is shown, what is made of the answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from align.benchmarks.captions import PROMPT
from align.benchmarks.changes import relative_change
from align.benchmarks.corruptions import CorruptedImage, Corruption, corrupt
from align.benchmarks.measures import Outcome, mean, ratio
from align.benchmarks.rows import Question, Row
from align.benchmarks.suites import find_suites
from align.evaluate.answers import input_sha256
from align.evaluate.models import Contestant
from align.evaluate.stage import EvaluateWork
from align.settings import Evaluate, Prompts
from annotate.errors import UserError
from annotate.jsonl import dump_line
from annotate.pixels import rgb
from annotate.records import Image, Prompt, Turn

# ------------------------------------------------------------------------------------------------------------- names


def test_a_suite_with_a_corruption_is_the_same_suite_about_other_images():
    pope, worse = find_suites(["pope", "pope+gaussian_noise_3"])
    assert (worse.name, worse.clean, worse.file) == ("pope+gaussian_noise_3", "pope", "pope")
    assert worse.corruption == Corruption("gaussian_noise", 3) and worse.score is pope.score
    assert worse.stands_apart and not pope.stands_apart


def test_the_grid_is_the_clean_suite_and_twelve_corrupted_and_nothing_twice():
    names = [suite.name for suite in find_suites(["pope+contrast_3", "pope+grid", "pope"])]
    assert len(names) == 13 == len(set(names))
    assert names[0] == "pope+contrast_3"
    assert {"pope", "pope+gaussian_noise_1", "pope+brightness_5"} < set(names)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pop+contrast_3", "no suite 'pop+contrast_3'; did you mean 'pope+contrast_3'?"),
        ("pope+contrasts_3", "no corruption 'contrasts'; did you mean 'contrast'?  Known: gaussian_noise,"),
        ("pope+contrast_6", "severity of contrast: 6; it goes from 1 to 5"),
        ("pope+contrast", "corruption 'contrast': expected a name and a severity, such as gaussian_noise_3"),
        ("text_instructions+contrast_3", "text_instructions shows no images of its own that could be corrupted"),
        ("pope_blank+contrast_3", "pope_blank shows no images of its own that could be corrupted"),
    ],
)
def test_what_makes_no_sense_is_refused(name, said):
    with pytest.raises(UserError) as caught:
        find_suites([name])
    assert str(caught.value).startswith("evaluate.suites: ") and said in str(caught.value)


# ---------------------------------------------------------------------------------------------- what it costs a model


def outcomes(values: list[float | None], key="accuracy") -> list[Outcome]:
    return [
        Outcome(id=str(i), value={} if v is None else {key: v}, state="unparsed" if v is None else "ok")
        for i, v in enumerate(values)
    ]


def test_the_relative_change_is_paired():
    clean = outcomes([1.0] * 8 + [0.0] * 2)
    worse = outcomes([1.0] * 4 + [0.0] * 6)
    found = relative_change(mean("accuracy"), worse, clean)
    assert found.name == "relative_change" and found.value == pytest.approx((0.4 - 0.8) / 0.8)
    assert found.low is not None and found.high is not None and found.low < -0.5 < found.high <= 0
    assert (found.n, found.n_failed) == (10, 0)
    same = relative_change(mean("accuracy"), clean, clean)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)  # where nothing changes, nothing is uncertain


def test_the_relative_change_of_a_ratio_is_that_of_the_ratios():
    def rows(said: list[int]) -> list[Outcome]:
        truth = [1, 1, 1, 0]
        value = [{"yes": float(y), "truth": float(t)} for y, t in zip(said, truth, strict=True)]
        return [Outcome(id=str(i), value=v) for i, v in enumerate(value)]

    f1 = ratio("f1", lambda v: 2 * v["yes"] * v["truth"], lambda v: v["yes"] + v["truth"])
    found = relative_change(f1, rows([1, 0, 0, 0]), rows([1, 1, 1, 1]))  # F1 2/4 after 6/7
    assert found.value == pytest.approx((1 / 2 - 6 / 7) / (6 / 7))


def test_what_has_a_score_on_one_side_only_is_not_compared():
    found = relative_change(mean("accuracy"), outcomes([1.0] * 9 + [None]), outcomes([1.0] * 9 + [0.0]))
    assert (found.value, found.n, found.n_failed) == (0.0, 9, 1)
    few = relative_change(mean("accuracy"), outcomes([1.0] * 7 + [None] * 3), outcomes([1.0] * 10))
    assert (few.value, few.n, few.n_failed) == (None, 7, 3)
    nothing = relative_change(mean("accuracy"), outcomes([1.0] * 3), outcomes([0.0] * 3))
    assert nothing.value is None  # of nothing there is no share


# ------------------------------------------------------------------------------------------------ on a real model


def captioned(id: str, image: Image) -> Row:
    turn = Turn(role="user", text=f"<image>\n{PROMPT}", images=(image,))
    question = Question(text=PROMPT, kind="caption", truth={"references": [f"A picture number {id}."]})
    return Row(id=id, suite="coco_captions", prompt=Prompt.of((turn,)), questions=(question,))


def test_corruption_is_part_of_what_is_shown():
    row = captioned("1", Image(path="a.png", sha256="0" * 64))
    suites = find_suites(["coco_captions", "coco_captions+contrast_1", "coco_captions+contrast_3"])
    assert len({input_sha256(suite, row, "") for suite in suites}) == 3
    # That of a clean question is what it was before there were corruptions: old answers stay valid.
    assert input_sha256(suites[0], row, "") == "848177fcd4635ab8f3a53d2f7812d13ba17919ca7289372823fa6297dc1b39fa"


@dataclass(frozen=True)
class World:
    folder: Path
    model: Path
    rows: list[Row]

    def work(self, *suites: str) -> EvaluateWork:
        from align.evaluate.plan import load_exams

        settings = Evaluate(folder=str(self.folder), suites=suites, max_new_tokens=5, batch_size=2)
        vlm = Contestant(name="vlm", sha256="5c", folder=self.model)
        exams = load_exams(settings, Prompts(image_root=str(self.folder)))
        return EvaluateWork(settings=settings, exams=exams, contestants=[vlm], root=self.folder, seed=0)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    tiny = pytest.importorskip("tiny_llava")
    folder = tmp_path_factory.mktemp("captions")
    rows = [captioned(str(i), tiny.save_image(folder, f"{i}.png", seed=i)) for i in range(3)]
    lines = [dump_line({**row.to_json(), "prompt": row.prompt.to_json()}) for row in rows]
    (folder / "coco_captions.jsonl").write_text("".join(lines))
    return World(folder, tiny.save_tiny_llava(folder / "vlm"), rows)


def test_a_corrupted_image_is_made_when_it_is_looked_at_and_lies_nowhere(world):
    from align.models.load import load_vlm

    row, encoder = world.rows[0], load_vlm(world.model).encoder
    path, sha256 = world.folder / row.prompt.images[0].path, row.prompt.images[0].sha256
    before = sorted(world.folder.iterdir())
    shown = CorruptedImage(path, sha256, Corruption("gaussian_noise", 5))
    expected = corrupt(rgb(path), "gaussian_noise", 5, seed=0, sha256=sha256)
    assert shown.draw().tobytes() == expected.tobytes() != rgb(path).tobytes()
    clean, noisy = (encoder.prompt(row.prompt.turns, [image]).images["pixel_values"] for image in (path, shown))
    assert not clean.equal(noisy)
    assert encoder.prompt(row.prompt.turns, [path]).images["pixel_values"].equal(clean)  # and the two are kept apart
    assert sorted(world.folder.iterdir()) == before


def test_a_corrupted_suite_is_answered_scored_and_set_against_the_clean_one(world, tmp_path):
    stage = world.work("coco_captions", "coco_captions+gaussian_noise_5", "coco_captions+brightness_5")
    lines: dict = {}
    stage.execute(stage.units, lines.__setitem__, tmp_path, lambda *_: None)
    made = stage.compile(lines, tmp_path)
    items = {(item.suite, item.id): item for item in made.files["items.jsonl"]}
    assert len(items) == 9 and made.failures == 0
    assert len({item.input_sha256 for item in items.values()}) == 9
    changes = {m.suite: m for m in made.files["metrics.jsonl"] if m.name == "relative_change"}
    assert sorted(changes) == ["coco_captions+brightness_5", "coco_captions+gaussian_noise_5"]
    assert all(change.n + change.n_failed == 3 for change in changes.values())
    verdicts = made.files["verdicts.json"]
    assert [suite["control"] for suite in verdicts["suites"]] == [False, True, True]
    assert verdicts["warnings"] == [w for w in verdicts["warnings"] if "clean" not in w]
    # Asked for the corrupted alone, the same answers are reused and there is nothing to set them against.
    alone = world.work("coco_captions+brightness_5")
    assert {unit.key for unit in alone.units} < set(lines)
    made = alone.compile(lines, tmp_path)
    assert "coco_captions+brightness_5: not asked about clean images" in " ".join(
        made.files["verdicts.json"]["warnings"]
    )


def test_references_that_are_missing_are_a_fault_of_the_file(world, tmp_path):
    row = world.rows[0].to_json() | {"prompt": world.rows[0].prompt.to_json()}
    row["questions"] = [row["questions"][0] | {"truth": {"caption": "x"}}]
    (tmp_path / "coco_captions.jsonl").write_text(dump_line(row))
    for image in world.folder.glob("*.png"):
        (tmp_path / image.name).write_bytes(image.read_bytes())
    with pytest.raises(UserError, match=r"item 0: question.truth: captions need `references`, a list of texts"):
        replace(world, folder=tmp_path).work("coco_captions")


# -------------------------------------------------------------------------------------------------- demonstrations


def test_demonstrations_are_text_about_other_images_and_part_of_what_is_shown(world, tmp_path):
    stage = world.work("coco_captions", "coco_captions+2_demonstrations")
    clean, shot = (exam.suite for exam in stage.exams)
    for row in world.rows:
        *before, last = shot.opening(row)
        assert [turn.role for turn in before] == ["user", "assistant"] * 2 and last == clean.first_turn(row)
        assert not any(turn.images for turn in before)
        others = [f"A picture number {other.id}." for other in world.rows if other is not row]
        assert sorted(turn.text for turn in before[1::2]) == others
        assert input_sha256(shot, row, "") != input_sha256(clean, row, "")
    lines: dict = {}
    stage.execute(stage.units, lines.__setitem__, tmp_path, lambda *_: None)
    items = stage.compile(lines, tmp_path).files["items.jsonl"]
    assert [item.suite for item in items].count("coco_captions+2_demonstrations") == 3


def test_demonstrations_need_other_images_and_a_known_answer(world):
    with pytest.raises(UserError, match=r"coco_captions\+3_demonstrations: asks about 3 images; it takes 4"):
        world.work("coco_captions+3_demonstrations")
    with pytest.raises(UserError, match="are for single questions about an image"):
        find_suites(["text_instructions+3_demonstrations"])
