"""Evaluation: what an answer is worth, what a benchmark must hold, who differs from whom, the stage on a real model."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from align.benchmarks.choice import choice_output, score_choice
from align.benchmarks.instructions import score_dialogue
from align.benchmarks.measures import Outcome, estimate
from align.benchmarks.pope import MEASURES as POPE_MEASURES
from align.benchmarks.pope import score_yes_no
from align.benchmarks.rows import load_rows, read_row
from align.benchmarks.scoring import OFFICIAL_YES_NO, STRICT_YES_NO, exactness, has_form, read_yes_no
from align.benchmarks.suites import SUITES, find_suites
from align.evaluate.judge import JudgeWork, plan_gradings
from align.evaluate.metrics import suite_metrics
from align.evaluate.models import contestants
from align.evaluate.plan import Batch, Exam, load_exams
from align.evaluate.stage import EvaluateWork, work
from align.evaluate.verdicts import controls, family, summary, tax
from align.settings import Evaluate, Judge, Prompts
from annotate.errors import RecordError, UserError
from annotate.jsonl import dump_line
from annotate.records import Completion, Image, Item, Prompt, Turn, replace
from annotate.stage import Unit

# ----------------------------------------------------------------------------------------- what an answer is worth

LAST = {"word": "map", "sentence": "The last word is map."}
REVERSED = {"list": "1. map 2. sun 3. pear", "sentence": "In reverse the words are map, sun, pear."}


@pytest.mark.parametrize(
    ("text", "accepted", "worth"),
    [
        ("map", LAST, 1.0),
        ("Map.", LAST, 1.0),  # case and punctuation don't matter
        ("The last word is map.", LAST, 1.0),
        ("  the last word is   MAP ", LAST, 1.0),
        ("The last word is sun.", LAST, 0.0),
        ("map sun", LAST, 0.0),  # nothing besides the answer: naming several is no way to be right
        ("The last word is map. The last word is sun.", LAST, 0.0),
        ("", LAST, 0.0),
        ("1. map 2. sun 3. pear", REVERSED, 1.0),
        ("1) map\n2) sun\n3) pear", REVERSED, 1.0),
        ("1. pear 2. sun 3. map", REVERSED, 0.0),  # order matters
        ("1. map 2. sun", REVERSED, 0.0),
        ("In reverse the words are map, sun, pear.", REVERSED, 1.0),
    ],
)
def test_exactness_is_an_exact_match_in_any_form(text, accepted, worth):
    assert exactness(text, accepted) == worth


@pytest.mark.parametrize(
    ("text", "form", "has"),
    [
        ("map", "word", 1.0),
        ("Yes.", "word", 1.0),
        ("the map", "word", 0.0),
        ("", "word", 0.0),
        ("The last word is map.", "sentence", 1.0),
        ("8 is in the list.", "sentence", 1.0),
        ("The last word is map", "sentence", 0.0),  # no full stop
        ("the last word is map.", "sentence", 0.0),  # no capital
        ("Map.", "sentence", 0.0),
        ("The word is map. It is last.", "sentence", 0.0),  # two
        ("1. map 2. sun.", "sentence", 0.0),
        ("1. map 2. sun", "list", 1.0),
        ("1. map\n2. sun\n3. pear", "list", 1.0),
        ("1. map 3. sun", "list", 0.0),
        ("map, sun", "list", 0.0),
        ("Here: 1. map 2. sun", "list", 0.0),
        ("anything at all", None, 1.0),
    ],
)
def test_form_is_shape_alone(text, form, has):
    assert has_form(text, form) == has


@pytest.mark.parametrize(
    ("text", "strict", "official"),
    [
        ("Yes", True, True),
        ("Yes, there is a 7.", True, True),
        ("No.", False, True),  # POPE's own reading takes "No" without its full stop ...
        ("No, there is no 7.", False, False),
        ("no", False, False),
        ("There is no 7.", None, False),  # ... and looks for the word anywhere in the first sentence
        ("I cannot tell", None, True),  # what is not a no is a yes to it
        ("", None, True),
        ("Yesterday", None, True),
    ],
)
def test_two_parsers_read_yes_and_no(text, strict, official):
    assert read_yes_no(text, STRICT_YES_NO) is strict
    assert read_yes_no(text, OFFICIAL_YES_NO) is (official if text != "No." else False)


def question(**changes) -> dict:
    made = {
        "text": "Words: sun, map. What is the last word? Answer with one word.",
        "kind": "last",
        "form": "word",
        "answer": "map",
        "accepted": LAST,
        "polarity": None,
        "options": [],
    }
    return made | changes


def bench_row(
    *questions: dict, suite="text_instructions", image: Image | None = None, noise: Image | None = None
) -> dict:
    """One line of a benchmark file."""
    questions = questions or (question(),)
    text = ("<image>\n" if image else "") + questions[0]["text"]
    prompt = Prompt.of((Turn(role="user", text=text, images=(image,) if image else ()),), source=suite)
    return {
        "id": f"{suite}-{prompt.id[:6]}",
        "suite": suite,
        "prompt": prompt.to_json(),
        "noise_image": {"path": noise.path, "sha256": noise.sha256} if noise else None,
        "questions": list(questions),
    }


def test_a_dialogue_is_worth_the_mean_of_its_turns():
    again = question(text="Say that again. Answer in one sentence.", form="sentence")
    row = read_row(bench_row(question(), again))
    # right and in form; then right, but a word where a sentence was asked for
    assert score_dialogue(row, ["map", "map"]).value == {
        "headline": 0.5,
        "exact": 1.0,
        "form": 0.5,
        "n_words": 1.0,
        "turn_1": 1.0,
        "turn_2": 0.0,
    }
    # a wrong sentence is well formed and worth nothing
    assert score_dialogue(row, ["map", "The last word is sun."]).value["headline"] == 0.5
    assert score_dialogue(row, ["sun", "The last word is sun."]).value["headline"] == 0.0
    # an open answer is never unparsed
    assert score_dialogue(row, ["", "#?"]).state == "ok"


def is_there(polarity: str, text="Is there a 7?") -> dict:
    return question(text=text, kind="exist", form=None, answer="Yes", accepted={"word": "Yes"}, polarity=polarity)


PICTURE = Image(path="p.png", sha256="0" * 64)


def test_f1_and_yes_ratio_against_a_hand_count():
    # truth Y Y Y N N N, said Y Y N Y N N: 2 hits, 1 false alarm, 1 miss
    yes, no = (read_row(bench_row(is_there(p), suite="pope", image=PICTURE)) for p in ("positive", "negative"))
    said = [(yes, "Yes."), (yes, "Yes, there is."), (yes, "No"), (no, "yes"), (no, "No."), (no, "no")]
    scored = [Outcome(id=str(i), value=score_yes_no(row, [text]).value) for i, (row, text) in enumerate(said)]
    found = {m.name: estimate(m, scored).value for m in POPE_MEASURES}
    assert found == pytest.approx(
        {"accuracy": 4 / 6, "f1": 2 / 3, "precision": 2 / 3, "recall": 2 / 3, "yes_ratio": 0.5, "truth_ratio": 0.5}
        | {"n_words": 8 / 6}
    )


def test_no_yes_at_all_has_no_precision():
    row = read_row(bench_row(is_there("positive"), suite="pope", image=PICTURE))
    scored = [Outcome(id=str(i), value=score_yes_no(row, ["No"]).value) for i in range(3)]
    found = {m.name: estimate(m, scored) for m in POPE_MEASURES}
    assert found["precision"].value is None and found["recall"].value == found["f1"].value == 0.0


def test_an_unreadable_yes_no_is_unparsed_and_lowers_coverage():
    row = read_row(bench_row(is_there("positive"), suite="pope", image=PICTURE))
    assert score_yes_no(row, ["Perhaps."]).state == "unparsed" and score_yes_no(row, ["Perhaps."]).value == {}
    exam = Exam(SUITES["pope"], tuple(replace(row, id=str(i)) for i in range(10)))

    def metrics(n_unparsed: int):
        states = ["unparsed"] * n_unparsed + ["ok"] * (10 - n_unparsed)
        value = score_yes_no(row, ["Yes"]).value
        items = [item(str(i), "pope", "vlm", value if s == "ok" else {}, state=s) for i, s in enumerate(states)]
        return next(iter(suite_metrics(exam, "vlm", items, [], 0, None)))

    one = metrics(1)
    assert (one.value, one.n, one.n_failed) == (1.0, 9, 1)
    most = metrics(3)  # what is left would be the model's own selection
    assert (most.value, most.low, most.n, most.n_failed) == (None, None, 7, 3)


def test_a_choice_is_the_most_likely_option_and_ties_go_to_the_first():
    options = question(text="What color? Options: red, blue.", form=None, answer="blue", options=["red", "blue"])
    options["accepted"] = {"word": "blue"}
    row = read_row(bench_row(options, suite="choice", image=PICTURE))
    recorded = choice_output(["red", "blue"], [-2.25, -0.5])
    assert recorded == '{"blue":-0.5,"red":-2.25}'
    assert score_choice(row, [recorded]).value == {"accuracy": 1.0, "chance": 0.5}
    assert score_choice(row, [choice_output(["red", "blue"], [-1.0, -1.0])]).value["accuracy"] == 0.0


def test_scorers_share_nothing_with_the_annotators():
    """The headline is measured by code that the rules annotator has no part in."""
    code = (
        "import sys; from align.benchmarks.suites import SUITES\n"
        "names = {f'{s.score.__module__}' for s in SUITES.values() if s.score} | {'align.benchmarks.scoring'}\n"
        "print([m for m in sys.modules if m.startswith('annotate.backends') or m in ('torch', 'annotate.prompting')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    for name in ("scoring", "instructions", "pope", "choice", "open_visual", "suite"):
        source = (Path("align/benchmarks") / f"{name}.py").read_text()
        assert set(re.findall(r"^from (annotate\S*)", source, re.M)) <= {"annotate.records", "annotate.errors"}


# -------------------------------------------------------------------------------------- what a benchmark must hold


def bench(folder: Path, rows: list, name="text_instructions") -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.jsonl"
    file.write_text("".join(row if isinstance(row, str) else dump_line(row) for row in rows))
    return file


def faults_of(call, *args, **options) -> list[str]:
    with pytest.raises(UserError) as caught:
        call(*args, **options)
    return list(caught.value.faults)


def test_every_fault_of_a_benchmark_file_is_told_with_its_line(tmp_path):
    good = bench_row()
    stray = question(options=["sun", "pear"])
    rows = [
        good,
        good,
        bench_row(question(form="list")),
        bench_row(question(answer=7)),
        bench_row(stray),
        bench_row(suite="pope"),
        good | {"id": "x", "ansver": 1},
        [1],
    ]
    found = faults_of(load_rows, bench(tmp_path, rows), suite="text_instructions")
    wanted = [
        r":2: id text_instructions-\w+ occurs twice; models are joined on it",
        r":3: question.form: asks for list, but `accepted` has only \['sentence', 'word'\]",
        r":4: bench/1.questions\[0\].answer: expected str, got int",
        r":5: question.options: must differ and hold the answer 'map'",
        r":6: suite 'pope' stands in text_instructions.jsonl",
        r":7: bench/1: unknown field 'ansver'",
        r":8: bench/1: expected an object",
    ]
    assert len(found) == len(wanted)
    for fault, pattern in zip(found, wanted, strict=True):
        assert re.search(r"text_instructions\.jsonl" + pattern, fault), fault


def test_a_missing_file_names_the_remedy(tmp_path):
    (fault,) = faults_of(load_rows, tmp_path / "pope.jsonl", suite="pope_blank")
    assert "no such benchmark file" in fault and "evaluate.folder" in fault and "pope_blank" in fault


def test_an_empty_or_halved_file_is_refused(tmp_path):
    assert "no questions" in faults_of(load_rows, bench(tmp_path, []), suite="x")[0]
    assert ":1: not a line of JSON" in faults_of(load_rows, bench(tmp_path, ['{"id": "a", ']), suite="x")[0]


def test_a_question_must_stand_in_its_prompt():
    row = bench_row()
    row["questions"][0] = question(text="Something else?")
    with pytest.raises(RecordError, match="not what the prompt asks"):
        read_row(row)


def test_unknown_suites_are_told_with_a_guess():
    assert "no suite 'pop'; did you mean 'pope'?" in faults_of(find_suites, ["pop", "choice"])[0]


def test_what_a_suite_needs_of_its_rows_and_images(tmp_path):
    save = pytest.importorskip("tiny_llava").save_image
    there = save(tmp_path, "a.png", seed=1)
    bench(tmp_path / "b", [bench_row()])  # no noise image
    rows = [
        bench_row(is_there("positive"), suite="pope", image=there),
        bench_row(is_there("positive", "Is there an 8?"), suite="pope", image=replace(there, sha256="1" * 64)),
        bench_row(is_there("positive", "Is there a 9?"), suite="pope", image=replace(there, path="../a.png")),
        bench_row(question(form=None, text="Is there?"), suite="pope", image=there),
    ]
    bench(tmp_path / "b", rows, "pope")
    settings = Evaluate(folder=str(tmp_path / "b"), suites=("text_noisy_image", "pope", "pope_blank"))
    found = faults_of(load_exams, settings, Prompts(image_root=str(tmp_path)))
    assert [re.sub(r"^.*item \S+: ", "", fault) for fault in found] == [
        "text_noisy_image needs a `noise_image` (an irrelevant picture)",
        "question.polarity: a yes/no item needs positive or negative",
        "image 'a.png' has other bytes than its record says; was it edited?",
        "image '../a.png': leaves its root by '..'; set prompts.image_root higher instead",
    ]


# ----------------------------------------------------------------------------------------- who differs from whom


def item(id: str, suite: str, model: str, value: dict, state="ok", output="") -> Item:
    return Item(
        id=id,
        suite=suite,
        model=model,
        model_sha256=model,
        decoding={},
        input_sha256="",
        output=output,
        parser="",
        value=value,
        state=state,
    )


def exam_of(suite: str, n: int) -> Exam:
    rows = tuple(replace(read_row(bench_row(suite=SUITES[suite].file)), id=str(i)) for i in range(n))
    return Exam(SUITES[suite], rows)


@dataclass(frozen=True)
class Named:
    """As much of a contestant as the summary looks at."""

    name: str
    conditioning: str = ""
    sha256: str = "5c"
    further: str = ""
    trajectory: bool = False


def summed(items, exams, models=("backbone", "vlm", "dpo"), **options):
    given = {"margin": 0.02, "seed": 0, "judge": None, "annotator": "rules ", "halved": 0} | options
    return summary(items, exams=exams, contestants=[Named(m) for m in models], **given)


def test_a_regression_and_its_repair_reach_the_verdict():
    # of 240 questions the backbone has 200, the VLM 80 of these, DPO the same 200 again
    right = {"backbone": 200, "vlm": 80, "dpo": 200}
    items = [
        item(str(i), "text_instructions", model, {"headline": float(i < n)})
        for model, n in right.items()
        for i in range(240)
    ]
    made = summed(items, [exam_of("text_instructions", 240)])
    (loss,) = made["regression"]
    assert (loss["suite"], loss["verdict"]) == ("text_instructions", "present")
    assert loss["vlm_minus_backbone"]["mean"] == -0.5 and loss["vlm_minus_backbone"]["n"] == 240
    (repair,) = made["comparisons"]
    assert (repair["model"], repair["verdict"]) == ("dpo", "repaired")
    assert repair["minus_vlm"]["mean"] == 0.5 and repair["minus_vlm"]["p"] < 0.001
    assert repair["minus_backbone"]["mean"] == 0.0


def test_a_copy_kept_on_the_way_gets_no_verdict_and_changes_none():
    right = {"backbone": 200, "vlm": 80, "dpo": 100, "step-2": 190}
    items = [
        item(str(i), "text_instructions", model, {"headline": float(i < n)})
        for model, n in right.items()
        for i in range(240)
    ]
    exams = [exam_of("text_instructions", 240)]
    without = summed([i for i in items if i.model != "step-2"], exams)
    named = [Named("backbone"), Named("step-2", trajectory=True), Named("vlm"), Named("dpo")]
    made = summary(items, exams=exams, contestants=named, margin=0.02, seed=0, judge=None, annotator="", halved=0)
    assert list(made["models"]) == ["backbone", "step-2", "vlm", "dpo"]
    assert (made["comparisons"], made["tax"]) == (without["comparisons"], without["tax"])


def test_the_copies_of_instruct_are_rows_in_the_order_of_their_steps(world, tmp_path):
    for step, kind in (("step-10", "model"), ("step-9", "adapter")):
        made = tmp_path / "instruct/snapshots" / step / kind
        made.mkdir(parents=True)
        (made / "config.json").write_text(step)
    context = dataclasses.replace(world, outputs=tmp_path, stages=("instruct",))
    found = contestants(context)
    assert [c.name for c in found] == ["backbone", "step-9", "step-10", "vlm"]
    assert (found[1].folder, found[1].adapter) == (world.start, tmp_path / "instruct/snapshots/step-9/adapter")
    assert (found[2].folder, found[2].adapter) == (tmp_path / "instruct/snapshots/step-10/model", None)
    assert [c.trajectory for c in found] == [False, True, True, False]
    assert len({c.sha256 for c in found}) == 4


def test_beside_a_noisy_image_the_backbone_stands_with_its_clean_answers():
    exams = [exam_of("text_instructions", 40), exam_of("text_noisy_image", 40)]
    items = [item(str(i), "text_instructions", "backbone", {"headline": 1.0}) for i in range(40)]
    for suite in ("text_instructions", "text_noisy_image"):
        items += [item(str(i), suite, "vlm", {"headline": float(i % 2)}) for i in range(40)]
    made = summed(items, exams, models=("backbone", "vlm"))
    assert [(r["suite"], r["vlm_minus_backbone"]["mean"]) for r in made["regression"]] == [
        ("text_instructions", -0.5),
        ("text_noisy_image", -0.5),
    ]


@pytest.mark.parametrize(
    ("vlm", "dpo", "verdict"),
    [
        (range(0, 240), range(0, 240), "kept"),  # no answer changed
        (range(0, 200), range(0, 80), "worse"),
        (range(0, 80), range(0, 200), "better"),
        (range(0, 120), range(8, 124), "not shown"),  # four questions less: neither a loss nor surely none
    ],
)
def test_what_alignment_did_to_the_other_suites(vlm, dpo, verdict):
    right = {"vlm": vlm, "dpo": dpo}
    items = [item(str(i), "open_visual", m, {"headline": float(i in right[m])}) for m in right for i in range(240)]
    (row,) = summed(items, [exam_of("open_visual", 240)], models=("vlm", "dpo"))["comparisons"]
    assert (row["suite"], row["verdict"], row["minus_backbone"]) == ("open_visual", verdict, None)


def test_unreadable_answers_are_compared_with_nothing_and_told():
    right = {"accuracy": 1.0, "truth": 1.0, "yes": 1.0}
    items = [item(str(i), "pope", m, right) for m in ("vlm", "dpo") for i in range(9)]
    items += [item("9", "pope", "vlm", right | {"accuracy": 0.0}), item("9", "pope", "dpo", {}, state="unparsed")]
    made = summed(items, [exam_of("pope", 10)], models=("vlm", "dpo"))
    assert made["comparisons"][0]["minus_vlm"]["n"] == 9
    assert made["warnings"] == ["pope: 1 of 10 answers of dpo could not be read; they are in no score"]


def test_judge_and_annotator_of_one_family_are_told_of():
    assert family("gemini gemini-2.5-pro") == family("gemini_batch gemini-1.5-flash") == "gemini"
    assert family("openai_chat gpt-4o") == "gpt" and family("rules ") == "rules"
    exams = [exam_of("text_instructions", 1)]
    one = [item("0", "text_instructions", "vlm", {"headline": 1.0})]
    told = summed(
        one, exams, judge=Judge(backend="gemini", model="gemini-2.5-pro"), annotator="gemini gemini-2.0-flash"
    )
    assert "one family (gemini)" in told["warnings"][0]
    other = summed(one, exams, judge=Judge(backend="openai_chat", model="gpt-4o"), annotator="gemini gemini-2.0-flash")
    assert other["warnings"] == []


def test_controls_say_what_does_not_hold():
    rows = [read_row(bench_row(is_there(p, f"Is there a {i}?"), suite="pope", image=PICTURE)) for i, p in
            enumerate(["positive", "negative"] * 10)]  # fmt: skip
    exam = Exam(SUITES["pope"], tuple(replace(row, id=str(i)) for i, row in enumerate(rows)))
    always_yes = [item(row.id, "pope", "vlm", score_yes_no(row, ["Yes"]).value, output="Yes") for row in exam.rows]
    found = {c["name"]: (c["value"], c["ok"]) for c in controls(always_yes, [exam])}
    assert found["share of questions whose truth is yes"] == (0.5, True)
    assert found["share of yes among the answers"] == (1.0, False)
    assert found["F1 by POPE's own reading of the same answers"] == (pytest.approx(2 / 3), None)
    (read,) = controls([item(row.id, "pope", "vlm", {}, "unparsed") for row in exam.rows], [exam])
    assert (read["name"], read["value"], read["ok"]) == ("share of answers that could be read", 0.0, False)


# ----------------------------------------------------------------------------------------- numbers known from outside


# ------------------------------------------------------------------------------------------ the stage on a real model


@dataclass
class SmallRecipe:
    evaluate: Evaluate
    prompts: Prompts
    seed: int = 0
    annotate: None = None

    def block(self, stage: str) -> None:
        """Every training as it is where nothing is said."""


@dataclass
class SmallContext:
    """What the runner hands the stage, for models that lie in folders."""

    recipe: SmallRecipe
    model: Path
    model_sha256: str
    backbone: Path | None
    outputs: Path
    stages: tuple[str, ...] = ()
    also: dict = field(default_factory=dict)
    stage: str = "evaluate"
    made: dict = field(default_factory=dict)
    start_sha256: str = "5c"

    @property
    def start(self) -> Path:
        return self.model

    def has(self, stage: str) -> bool:
        return stage in self.stages

    def path(self, stage: str, name: str) -> Path:
        return self.outputs / stage / name


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> SmallContext:
    """A random tiny LLaVA, its language model, an untrained-but-real adapter, and three questions of every kind."""
    tiny = pytest.importorskip("tiny_llava")
    from peft import LoraConfig, get_peft_model

    from align.digest import model_digest
    from align.models.load import load_vlm

    folder = tmp_path_factory.mktemp("world")
    vlm = tiny.save_tiny_llava(folder / "vlm")
    target = r".*language_model.*\.(q|v)_proj"
    adapter = get_peft_model(load_vlm(vlm).model, LoraConfig(r=4, target_modules=target, init_lora_weights=False))
    adapter.save_pretrained(str(folder / "steerlm" / "adapter"))
    (folder / "steerlm" / "conditioning.txt").write_text("\nAnswer well.")
    images = [tiny.save_image(folder, f"{i}.png", seed=i) for i in range(3)]
    again = question(text="Say that again. Answer in one sentence.", form="sentence")
    texts = [question(text=f"Words: sun, {'pear, ' * i}map. What is the last word?") for i in range(3)]
    options = {"options": ["red", "blue", "green"], "answer": "red", "accepted": {"word": "red"}, "form": None}
    bench(folder / "bench", [bench_row(t, again, noise=i) for t, i in zip(texts, images, strict=True)])
    for suite, asked in {
        "open_visual": [question(text=f"Which is the last word? {i}") for i in range(3)],
        "pope": [is_there("positive", f"Is there a {i}?") for i in range(3)],
        "choice": [question(text=f"What color? {i}", **options) for i in range(3)],
    }.items():
        bench(folder / "bench", [bench_row(q, suite=suite, image=i) for q, i in zip(asked, images, strict=True)], suite)
    suites = ("text_instructions", "text_noisy_image", "open_visual", "pope", "pope_blank", "choice")
    return SmallContext(
        recipe=SmallRecipe(
            evaluate=Evaluate(folder=str(folder / "bench"), suites=suites, max_new_tokens=6, batch_size=2),
            prompts=Prompts(image_root=str(folder)),
        ),
        model=vlm,
        model_sha256=model_digest(vlm),
        backbone=tiny.save_tiny_language_model(folder / "language"),
        outputs=folder,
        stages=("steerlm",),
    )


def run(stage: EvaluateWork, workspace: Path, lines: dict | None = None, stop_after: int | None = None) -> dict:
    """What the runner does: execute what has no line yet. `stop_after` units it is killed."""
    kept = {} if lines is None else lines

    class Killed(Exception):
        pass

    def done(key, line):
        if stop_after is not None and len(kept) >= stop_after:
            raise Killed
        kept[key] = json.loads(json.dumps(line))

    try:
        stage.execute([u for u in stage.units if u.key not in kept], done, workspace, lambda *_: None)
    except Killed:
        pass
    return kept


def files(stage: EvaluateWork, lines: dict, workspace: Path) -> dict:
    compiled = stage.compile(lines, workspace)
    assert compiled.outputs + compiled.failures == compiled.units
    return {
        name: [x.to_json() for x in value] if name.endswith("jsonl") else value
        for name, value in compiled.files.items()
    }


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory) -> tuple[EvaluateWork, dict, dict]:
    workspace = tmp_path_factory.mktemp("finished")
    stage = work(world)
    lines = run(stage, workspace)
    return stage, lines, files(stage, lines, workspace)


def test_every_model_answers_every_suite_it_can_take(finished):
    _, _, made = finished
    counts: dict = {}
    for row in made["items.jsonl"]:
        counts[row["model"], row["suite"]] = counts.get((row["model"], row["suite"]), 0) + 1
    suites = ["text_instructions", "text_noisy_image", "open_visual", "pope", "pope_blank", "choice"]
    # the backbone alone can be shown no image: its other cells stay empty
    models = ("vlm", "steerlm", "steerlm_unprompted")
    assert counts == {("backbone", "text_instructions"): 3} | {(m, s): 3 for m in models for s in suites}
    assert made["failures.jsonl"] == []
    assert {"verdicts/1"} == {made["verdicts.json"]["schema"]}
    # a random model says neither yes nor no, so there is nothing to compare on pope; pope_blank is a control
    assert {i["state"] for i in made["items.jsonl"] if i["suite"] == "pope"} == {"unparsed"}
    compared = [(c["suite"], c["model"]) for c in made["verdicts.json"]["comparisons"]]
    assert compared == [(s, m) for s in suites if not s.startswith("pope") for m in models[1:]]
    assert made["verdicts.json"]["asked_with"] == {"steerlm": "\nAnswer well."}


def test_a_further_model_is_asked_as_the_vlm_is_and_a_language_model_only_text(world, finished, tmp_path):
    from align.base import Resolved

    again, language = (
        Resolved(path=p, sha256=p.name * 8, note=f"from {p.name}") for p in (world.model, world.backbone)
    )
    wider = dataclasses.replace(world, also={"again": again, "words": language})
    stage, lines = work(wider), dict(finished[1])
    assert [c.name for c in stage.contestants][:4] == ["backbone", "vlm", "again", "words"]
    asked = {u.payload.contestant.name for u in stage.units if u.key not in lines}
    assert asked == {"again", "words"}  # nobody else is asked anew
    made = files(stage, run(stage, tmp_path, lines), tmp_path)
    assert made["verdicts.json"]["also"] == {"again": "from vlm", "words": "from language"}
    said = {m: [i["output"] for i in made["items.jsonl"] if i["model"] == m] for m in ("vlm", "again")}
    assert said["again"] == said["vlm"]  # the same weights
    assert {i["suite"] for i in made["items.jsonl"] if i["model"] == "words"} == {"text_instructions"}
    # the rows of before have the verdicts of before
    old, new = ([c for c in m["verdicts.json"]["comparisons"] if c["model"] == "steerlm"] for m in (finished[2], made))
    assert old == new
    verdicts = {(c["suite"], c["model"]): c["minus_vlm"]["mean"] for c in made["verdicts.json"]["comparisons"]}
    assert verdicts["open_visual", "again"] == 0.0 and ("text_instructions", "words") in verdicts


def test_a_killed_evaluation_goes_on_and_ends_the_same(world, finished, tmp_path):
    whole, _, made = finished
    lines: dict = {}
    for stop in (3, 11, None):  # killed twice, each time planned anew
        run(work(world), tmp_path, lines, stop_after=stop)
    assert json.dumps(files(work(world), lines, tmp_path)) == json.dumps(made)
    assert set(lines) == {unit.key for unit in whole.units}


def test_corrected_truths_are_scored_without_asking_again(world, finished, tmp_path):
    """Keys hash what models are shown; what is right is read when the stage is compiled."""
    _, lines, made = finished
    said = {
        row["id"]: row["output"]
        for row in made["items.jsonl"]
        if (row["model"], row["suite"]) == ("vlm", "open_visual")
    }
    rows = [
        json.loads(line) for line in (Path(world.recipe.evaluate.folder) / "open_visual.jsonl").read_text().splitlines()
    ]
    for row in rows:
        row["questions"][0] |= {"accepted": {"word": said[row["id"]] or "?"}, "answer": "x"}
    for file in Path(world.recipe.evaluate.folder).glob("*.jsonl"):
        bench(
            tmp_path / "bench",
            rows if file.stem == "open_visual" else file.read_text().splitlines(keepends=True),
            file.stem,
        )
    settings = replace(world.recipe.evaluate, folder=str(tmp_path / "bench"))
    stage = work(replace(world, recipe=replace(world.recipe, evaluate=settings)))
    assert {unit.key for unit in stage.units} == set(lines)
    value = [i["value"]["exact"] for i in files(stage, lines, tmp_path)["items.jsonl"]
             if (i["model"], i["suite"]) == ("vlm", "open_visual") and i["output"]]  # fmt: skip
    assert value and set(value) == {1.0}


def test_what_a_model_is_shown(world):
    """Turns as they reach the engine: own first answer in context, noise image first, conditioning on the last turn."""
    from align.evaluate.answers import _Talk

    stage = work(world)
    steerlm = next(c for c in stage.contestants if c.name == "steerlm")
    noisy = next(e for e in stage.exams if e.suite.name == "text_noisy_image")
    row = noisy.rows[0]
    talk = _Talk(steerlm.load(), steerlm, noisy.suite, stage.root, stage.root, 6)
    first = noisy.suite.first_turn(row)
    asked = talk._prepare(row, [first, Turn(role="assistant", text="sun"), Turn(role="user", text="Again.")])
    assert [t.text for t in asked.turns] == [f"<image>\n{row.questions[0].text}", "sun", "Again.\nAnswer well."]
    assert asked.images == (stage.root / row.noise_image.path,)
    assert talk._prepare(row, [first]).turns[0].text.endswith("What is the last word?\nAnswer well.")


def test_the_blank_image_is_grey_and_of_the_same_size(world, finished, tmp_path):
    from PIL import Image as Pillow

    from align.evaluate.answers import _Talk

    stage, _, _ = finished
    blank = next(e for e in stage.exams if e.suite.name == "pope_blank")
    talk = _Talk(None, stage.contestants[1], blank.suite, stage.root, tmp_path, 6)
    with Pillow.open(talk._seen(blank.rows[0].prompt.images[0])) as image:
        assert image.size == (48, 48) and len(image.getcolors()) == 1


def test_an_image_that_goes_away_is_a_failure_and_the_rest_goes_on(world, tmp_path):
    stage = work(world)
    pope = [u for u in stage.units if isinstance(u.payload, Batch) and u.payload.suite.name == "pope"][:2]
    gone = pope[0].payload.rows[0]
    elsewhere = tmp_path / "images"
    elsewhere.mkdir()
    for image in Path(world.recipe.prompts.image_root).glob("*.png"):
        if image.name != gone.prompt.images[0].path:
            (elsewhere / image.name).write_bytes(image.read_bytes())
    stage.root = elsewhere
    lines: dict = {}
    stage.execute(pope, lines.__setitem__, tmp_path, lambda *_: None)
    line = lines[pope[0].key]
    assert line["outputs"][0] is None and line["outputs"][1] is not None
    assert line["faults"][gone.id]["reason"] == "image_unreadable"


def test_a_question_that_is_too_long_is_a_failure(world, tmp_path):
    long = question(text="Words: " + "sun, " * 600 + "map. What is the last word?")
    bench(tmp_path, [bench_row(long), bench_row()])
    settings = replace(world.recipe.evaluate, folder=str(tmp_path), suites=("text_instructions",))
    stage = work(replace(world, recipe=replace(world.recipe, evaluate=settings), stages=(), backbone=None))
    lines = run(stage, tmp_path)
    made = files(stage, lines, tmp_path)
    assert [f["reason"] for f in made["failures.jsonl"]] == ["too_long"] and len(made["items.jsonl"]) == 1
    told = stage.compile(lines, tmp_path).told
    assert told.startswith("1 without an answer, too_long: ") and "; lower evaluate.max_new_tokens, or take" in told


def test_a_judge_grades_open_answers_beside_the_headline(world, tmp_path):
    """`replay` as the judge: it knows one answer; where it knows none the item is judge_failed, not 0."""
    replies = tmp_path / "replies.jsonl"
    settings = replace(world.recipe.evaluate, suites=("open_visual",), judge=Judge(backend="replay"))
    judged = replace(settings, judge=Judge(backend="replay", options={"file": str(replies)}))
    context = replace(world, recipe=replace(world.recipe, evaluate=judged), stages=(), backbone=None)
    plain = replace(context, recipe=replace(world.recipe, evaluate=replace(settings, judge=None)))
    answered = files(work(plain), run(work(plain), tmp_path), tmp_path)["items.jsonl"]
    exam = work(plain).exams[0]
    row = next(row for row in exam.rows for i in answered if i["id"] == row.id and i["output"])
    grade = {"completion": 1, "rationale": "ok", "helpfulness": 3, "correctness": 4, "coherence": 2}
    grade |= {"complexity": 0, "verbosity": 1}
    output = next(i["output"] for i in answered if i["id"] == row.id)
    shown = Completion.of(prompt_id=row.prompt.id, model="judged", index=0, text=output)
    reply = {"prompt_id": row.prompt.id, "shown_order": [shown.id], "pass_index": 0, "usage": {}, "model_version": ""}
    reply["text"] = json.dumps({"reasoning": "", "ratings": [grade]})
    replies.write_text(json.dumps(reply) + "\n")
    stage = work(context)
    lines = run(stage, tmp_path, stop_after=2)
    made = files(stage, run(stage, tmp_path, lines), tmp_path)
    graded = {i["id"]: i for i in made["items.jsonl"] if i["suite"] == "open_visual:judge"}
    assert graded[row.id]["state"] == "ok" and graded[row.id]["value"]["rubric"] == 9.0
    assert sorted(i["state"] for i in graded.values()) == ["judge_failed", "judge_failed", "ok"]
    (metric,) = (m for m in made["metrics.jsonl"] if m["judge"])
    assert (metric["judge"], metric["n"], metric["n_failed"], metric["value"]) == ("replay", 1, 2, None)


def test_planning_needs_no_torch(world):
    settings, prompts = world.recipe.evaluate, world.recipe.prompts
    code = (
        "import sys; from align.evaluate.plan import load_exams; from align.settings import Evaluate, Prompts;"
        f"load_exams(Evaluate(folder={settings.folder!r}), Prompts(image_root={prompts.image_root!r}));"
        "import align.evaluate.stage; print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_an_empty_answer_has_the_lowest_grade_and_the_judge_is_not_asked(tmp_path):
    """Else a model that says nothing where it knows nothing would be graded on the rest alone."""
    answer_key = {
        "form": "word",
        "claims": [{"vocabulary": ["map", "sun"], "truth": ["map"], "given": [], "ordered": False}],
    }
    rows = tuple(
        read_row(bench_row(question(text=f"Words: sun, map. What is the last word? {i}", answer_key=answer_key)))
        for i in range(2)
    )
    batch = Batch(Named("vlm"), SUITES["text_instructions"], rows)
    answers = Unit("a", batch, 2)
    (unit,) = plan_gradings([answers], Judge(backend="rules"))
    line = {"outputs": [["map"], ["  "]], "faults": {}, "halved": False}
    judging, lines = JudgeWork(Judge(backend="rules"), tmp_path), {"a": line}
    judging.execute([(unit, line)], lines.__setitem__, tmp_path, lambda *_: None)
    assert len(lines[unit.key]["replies"]) == 1
    right, empty = judging.items([unit], lines)
    assert (right.state, right.value["rubric"]) == ("ok", 12.0)
    assert (empty.state, empty.value["rubric"]) == ("ok", 0.0)
    assert lines[unit.key]["outcome"] == "ok" and JudgeWork.cost([unit], lines) == 0.0


def test_the_tax_adds_what_surely_was_lost_as_shares_of_each_scale():
    def row(suite: str, model: str, verdict: str, mean: float) -> dict:
        return {"suite": suite, "model": model, "verdict": verdict, "minus_vlm": {"mean": mean, "p": 0.01}}

    rows = [
        row("pope", "dpo", "worse", -0.1),
        row("mm_vet", "dpo", "worse", -20.0),  # of 100
        row("choice", "dpo", "not shown", -0.3),  # perhaps, perhaps not: no loss that could be named
        row("pope", "sft", "better", 0.2),
    ]
    found = tax(rows, {"pope": 1.0, "mm_vet": 100.0, "choice": 1.0})
    assert [(t["model"], t["n_suites"], t["n_not_shown"], list(t["lost"]), t["sum"]) for t in found] == [
        ("dpo", 3, 1, ["pope", "mm_vet"], 0.3),
        ("sft", 1, 0, [], 0.0),
    ]


def test_another_way_of_asking_the_judge_is_another_grading(tmp_path):
    """Else the line of the old grading would be read for calls that it does not have."""
    rows = (read_row(bench_row(question(text="Words: sun, map. What is the last word?"))),)
    answers = Unit("a", Batch(Named("vlm"), SUITES["text_instructions"], rows), 1)
    ways: list[dict] = [{}, {"temperature": 0.5}, {"max_output_tokens": 99}, {"model": "other"}]
    keys = [plan_gradings([answers], Judge(backend="rules", **way))[0].key for way in ways]
    assert len(set(keys)) == 4 and keys[0] == plan_gradings([answers], Judge(backend="rules"))[0].key
