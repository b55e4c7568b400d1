"""Text benchmarks through lm-eval: what may be asked, resume, scores, and the same digits as lm-eval's own command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from text_rows import ROWS, SHOTS, write_rows

from align.benchmarks.measures import Outcome, estimate
from align.benchmarks.text_asked import CHOICES, instruction, read_option
from align.benchmarks.text_rows import load_text, text_files
from align.benchmarks.text_tasks import KNOWN, TASKS
from align.evaluate.lm_eval_tasks import generated, mc2
from align.evaluate.models import Contestant
from align.evaluate.stage import EvaluateWork
from align.evaluate.text import TextWork, asked_once
from align.inputs import missing_packages
from align.recipe import load_recipe
from align.settings import Evaluate, Text
from align.stages import STAGES
from annotate.errors import UserError
from annotate.records import Item, sha256_of

needs_lm_eval = pytest.mark.skipif(find_spec("lm_eval") is None, reason="the extra `text` is not installed")

# ------------------------------------------------------------------------------------- what is refused before any work


@pytest.mark.parametrize(
    ("task", "change", "fault"),
    [
        ("boolq", {"label": 2}, "label: 2 is neither 0 nor 1"),
        ("boolq", {"label": True}, "label: expected a whole number, got bool True"),
        ("boolq", {"passage": None}, "passage: expected text, got NoneType None"),
        ("ethics_virtue", {"trait": 3}, "trait: expected text, got int 3"),
        ("truthfulqa_mc1", {"mc1_targets": {"choices": ["a", "b"], "labels": [0, 1]}}, "mc1_targets: the first choice"),
        ("truthfulqa_mc2", {"mc2_targets": {"choices": ["a"], "labels": [1]}}, "mc2_targets.labels: nothing false"),
        ("hellaswag", {"label": ""}, "label: '' is no index of an ending"),  # its test split
        ("openbookqa", {"answerKey": "C"}, "answerKey: 'C' is no label of a choice"),
        ("mathqa", {"correct": "f"}, "correct: 'f' is none of a, b, c, d, e"),
        ("mmlu", {"subject": "cooking"}, "subject: MMLU has no 'cooking'"),
        ("race", {"problems": "[{'question': 'Who?'}]"}, "problems: expected a list as text"),
        ("gsm8k", {"answer": "4"}, "answer: has no line `#### number`"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named(tmp_path, task, change, fault):
    write_rows(tmp_path)
    rows = [*ROWS[task], ROWS[task][0] | change]
    (tmp_path / f"{task}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError) as error:
        load_text(Text(tasks=(task,), folder=str(tmp_path), shots=SHOTS))
    assert str(error.value).startswith(f"{tmp_path / task}.jsonl:{len(rows)}: {fault}")


def test_missing_files_columns_and_examples_are_all_told_at_once(tmp_path):
    write_rows(tmp_path, "gsm8k", "gsm8k.shots")
    (tmp_path / "boolq.jsonl").write_text('{"question": "is it", "label": 1}\n')
    with pytest.raises(UserError) as error:
        load_text(Text(tasks=("boolq", "gsm8k", "race"), folder=str(tmp_path)))
    boolq, gsm8k, race = error.value.faults
    assert boolq == f"{tmp_path}/boolq.jsonl:1: no column 'passage'; it needs question, passage, label"
    assert "4 example(s) for 8 shots" in gsm8k and "evaluate.text.shots: {gsm8k: 4}" in gsm8k
    assert race.startswith(f"{tmp_path}/race.jsonl: no such file (nor .parquet)")


def test_parquet_is_read_as_jsonl_is(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    write_rows(tmp_path / "lines", "truthfulqa_mc2")
    (tmp_path / "columns").mkdir()
    parquet.write_table(
        pyarrow.Table.from_pylist(ROWS["truthfulqa_mc2"]), tmp_path / "columns" / "truthfulqa_mc2.parquet"
    )
    lines, columns = (
        load_text(Text(tasks=("truthfulqa_mc2",), folder=str(tmp_path / name))) for name in ("lines", "columns")
    )
    assert lines == columns


def test_a_recipe_with_unknown_tasks_or_impossible_shots_is_refused(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "name: r\nmodel: m\nevaluate:\n  suites: none\n  text:\n    tasks: [bolq, ethics, ethics_cm]\n"
        "    shots: {truthfulqa_mc1: 3, gsm8k: -1}\n"
    )
    with pytest.raises(UserError) as error:
        load_recipe(tmp_path / "r.yaml", [])
    told = str(error.value)
    assert "evaluate.text.tasks: no task 'bolq'; did you mean 'boolq'?" in told
    assert "'ethics_cm' stands twice" in told  # once as a part of ethics
    assert "shots.truthfulqa_mc1: its six examples are part of its prompt" in told
    assert "shots.gsm8k: -1 is impossible" in told
    (tmp_path / "r.yaml").write_text(
        "name: r\nmodel: m\nevaluate: {text: {tasks: [boolq, gsm8k], ask: phrase, shots: {boolq: 2}}}\n"
    )
    with pytest.raises(UserError) as error:
        load_recipe(tmp_path / "r.yaml", [])
    assert "evaluate.text.ask: phrase suits boolq, race, openbookqa, hellaswag, mmlu; take gsm8k out" in str(
        error.value
    )
    assert "evaluate.text.shots: `ask: phrase` shows no examples" in str(error.value)


def test_without_the_extra_or_the_hub_the_remedy_is_named(tmp_path, monkeypatch):
    (tmp_path / "r.yaml").write_text("name: r\nmodel: m\nevaluate: {suites: none, text: {tasks: [boolq]}}\n")
    recipe = load_recipe(tmp_path / "r.yaml", [])
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # as if it were not there
    assert missing_packages(recipe, [STAGES["evaluate"]]) == ["not installed: lm_eval; pip install 'mmalign[text]'"]
    with pytest.raises(
        UserError, match=r"aps/super_glue: cannot be had .*; with the files at hand set evaluate\.text\.f"
    ):
        load_text(recipe.evaluate.text)


# ---------------------------------------------------------------------------------------------------------- the plan


def test_a_suite_of_parts_weighs_parts_and_questions(tmp_path):
    (suite,) = load_text(Text(tasks=("ethics",), folder=str(write_rows(tmp_path))))
    assert [part.name for part in suite.parts] == [n for n in TASKS if n.startswith("ethics_")]
    right = {"cm": (1, 1), "deontology": (1, 0), "justice": (0,), "utilitarianism": (0, 0), "virtue": (1, 0)}
    outcomes = [
        Outcome(id=f"{part}{i}", value={"acc": float(value)}, category=part)
        for part, values in right.items()
        for i, value in enumerate(values)
    ]
    found = {measure.name: estimate(measure, outcomes, draws=50).value for measure in suite.measures}
    assert found == {"macro": 0.4, "acc": pytest.approx(4 / 9), "cm": 1, "deontology": 0.5, "justice": 0,
                     "utilitarianism": 0, "virtue": 0.5}  # fmt: skip


def test_mmlu_is_limited_by_subject_and_its_headline_is_over_questions(tmp_path):
    (suite,) = load_text(Text(tasks=("mmlu",), folder=str(write_rows(tmp_path)), shots=SHOTS, limit=1))
    assert [(part.name, len(part.documents), len(part.examples)) for part in suite.parts] == [
        ("mmlu_anatomy", 1, 1),
        ("mmlu_virology", 1, 1),
    ]
    assert (suite.headline, [m.name for m in suite.measures]) == ("acc", ["acc", "macro", "anatomy", "virology"])


def test_race_can_be_asked_its_last_question_alone(tmp_path):
    folder = str(write_rows(tmp_path, "race"))
    after, alone = (load_text(Text(tasks=("race",), folder=folder, race=how))[0] for how in ("after_others", "alone"))
    problems = [suite.documents[0].row["problems"] for suite in (after, alone)]
    assert ["The box is" in text for text in problems] == [True, False]
    assert all("What is in the box?" in text for text in problems)


def test_every_task_has_rows_here_and_files_to_hash(tmp_path):
    write_rows(tmp_path)
    settings = Text(tasks=tuple(n for n in KNOWN if not n.startswith("ethics_")), folder=str(tmp_path), shots=SHOTS)
    assert {path.stem for path in text_files(settings)} == set(ROWS)
    assert {
        part.name.removesuffix("_anatomy").removesuffix("_virology") for s in load_text(settings) for part in s.parts
    } == set(TASKS)


def test_one_set_of_weights_is_asked_once_and_without_a_conditioning_text():
    def row(name: str, sha256: str, conditioning: str = "") -> Contestant:
        return Contestant(name=name, sha256=sha256, folder=Path("m"), conditioning=conditioning)

    steerlm = [row("steerlm", "b", "Helpfulness:4"), row("steerlm_unprompted", "b"), row("steerlm_brief", "b", "short")]
    assert [c.name for c in asked_once([row("vlm", "a"), *steerlm])] == ["vlm", "steerlm_unprompted"]
    assert [c.name for c in asked_once([row("vlm", "a"), steerlm[0], steerlm[2]])] == ["vlm", "steerlm"]


# ------------------------------------------------------------------------------------------------- asked in words

MAPS = ("a map", "the sun", "a map of the sun", "red")


@pytest.mark.parametrize(
    ("text", "options", "read"),
    [
        ("B", MAPS, 1),
        ("(D) red", MAPS, 3),
        ("b", MAPS, None),  # a letter is a capital; small ones begin words
        ("The direct answer is C.", MAPS, 2),
        ('The best answer is "the sun"', MAPS, 1),
        ("A map of the sun.", MAPS, 2),  # not the letter A, and the longer of two options it begins with
        ("A map", MAPS, 0),
        ("option B, the sun", MAPS, 1),
        ("E", MAPS, None),  # there is no such option
        ("redder", MAPS, None),
        ("", MAPS, None),
        ("U.S. 3.5", ("3.5", "U.S."), 1),  # full stops within an answer end nothing
        ("Yes, it is.", ("no", "yes"), 1),
        ("The direct answer is false.", ("no", "yes"), 0),
        ("Maybe", ("no", "yes"), None),
    ],
)
def test_an_option_is_read_by_letter_or_by_its_words(text, options, read):
    assert read_option(text, options) == read


def test_a_choice_is_put_in_words():
    race = CHOICES["race"](ROWS["race"][0])
    assert instruction(race, "phrase", "00000000") == (
        "The box is red. A ball is in it.\nQuestion: What is in the box?\nA. a cat\nB. a map\nC. a ball\nD. the sun\n"
        "Pick the right option and give its letter."
    )
    assert race.right == 2
    said = {instruction(race, "templates", f"{i:08x}").rsplit("\n", 1)[1] for i in range(10)}
    assert len(said) == 10
    boolq = CHOICES["boolq"](ROWS["boolq"][1])
    assert instruction(boolq, "phrase", "0" * 8).endswith("Question: is the box blue?\nReply with yes or no.")
    swag = CHOICES["hellaswag"](ROWS["hellaswag"][0])
    assert (boolq.options[boolq.right], swag.options[swag.right]) == ("no", "rolls.")
    assert swag.options[3] == "is. gone."  # WikiHow's marks are none of the text


# --------------------------------------------------------------------------------------------------------- scorers


def test_mc2_of_improbable_answers_is_a_number():
    """exp(-800) is 0 in double precision: lm-eval's formula makes 0 / 0 of it (issues #714, #1340)."""
    doc = {"mc2_targets": {"labels": [1, 0]}}
    assert mc2(doc, [[-800.0, False], [-800.0, False]]) == {"acc": 0.5}
    assert mc2(doc, [[-1.0, False], [-2.0, False]])["acc"] == pytest.approx(0.7310585786300049)  # 1 / (1 + 1/e)


@needs_lm_eval
def test_a_text_is_compared_with_true_and_false_answers():
    doc = {"correct_answers": ["The red ball is here."], "incorrect_answers": ["A blue cat sat on the mat."]}
    assert set(generated(doc, ["The red ball is here."]).values()) == {1.0}
    assert set(generated(doc, ["A blue cat sat on the mat."]).values()) == {0.0}
    assert set(generated(doc, [""]).values()) == {0.0}  # as near to the truth as to the rest is not nearer


@needs_lm_eval
@pytest.mark.parametrize(
    ("text", "answers", "exact", "f1"),
    [
        ("red", ["red", "a red one"], 1, 1),
        (" The Red.", ["red"], 1, 1),  # case, article and punctuation don't count
        ("the red box", ["red"], 0, 2 / 3),  # 1 of 2 words said, 1 of 1 wanted
        ("", [], 1, 1),  # no answer is the answer
        ("unanswerable", [], 0, 0),
        ("", ["red"], 0, 0),
        ("red red", ["red"], 0, 2 / 3),
    ],
)
def test_squad_counts_words(text, answers, exact, f1):
    from align.evaluate.lm_eval_squad import exact_and_f1

    assert exact_and_f1(text, answers) == {"exact": exact, "f1": pytest.approx(f1)}


@needs_lm_eval
def test_squad_agrees_with_the_official_script():
    """60 answers, their values by the script that lm-eval loads: see tests/tools/golden_squad.py."""
    from align.evaluate.lm_eval_squad import exact_and_f1

    golden = json.loads((Path(__file__).parent / "benchmark_golden" / "squad.json").read_text(encoding="utf-8"))
    found = [exact_and_f1(row["text"], row["answers"]) for row in golden]
    assert [value["exact"] for value in found] == [row["exact"] for row in golden]
    assert [value["f1"] for value in found] == pytest.approx([row["f1"] for row in golden], abs=1e-15)


# ------------------------------------------------------------------------------------------ the stage on a real model


@dataclass(frozen=True)
class World:
    vlm: Path
    language: Path
    data: Path


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    """A random tiny LLaVA, and the language model within it as a folder of its own."""
    from tiny_llava import save_tiny_llava
    from transformers import LlamaForCausalLM

    from align.models.load import load_vlm

    folder = tmp_path_factory.mktemp("text")
    vlm, language = folder / "vlm", folder / "language"
    vlm.mkdir()
    save_tiny_llava(vlm)
    loaded = load_vlm(vlm)
    alone = LlamaForCausalLM(loaded.model.config.text_config)
    alone.model.load_state_dict(loaded.model.model.language_model.state_dict())
    alone.lm_head.load_state_dict(loaded.model.lm_head.state_dict())
    alone.save_pretrained(language)
    loaded.tokenizer.save_pretrained(language)
    return World(vlm, language, write_rows(folder / "data"))


def stage(world: World, *tasks: str, **options) -> EvaluateWork:
    from align.digest import model_digest

    text = Text(tasks=tasks, folder=str(world.data), shots=SHOTS, **options)
    folders = {"backbone": world.language, "vlm": world.vlm}
    asked = [
        Contestant(name=name, sha256=model_digest(folder), folder=folder, sees=name == "vlm")
        for name, folder in folders.items()
    ]
    return EvaluateWork(
        settings=Evaluate(suites="none", text=text), exams=(), contestants=asked, root=world.data, seed=0
    )


def run(work: EvaluateWork, workspace: Path, lines: dict, stop_after: int | None = None) -> dict:
    pending = [unit for unit in work.units if unit.key not in lines][:stop_after]
    work.execute(pending, lambda key, line: lines.update({key: json.loads(json.dumps(line))}), workspace, print)
    return lines


def files(work: EvaluateWork, lines: dict, workspace: Path) -> dict:
    made = work.compile(lines, workspace)
    assert made.outputs + made.failures == made.units
    return {
        name: [r.to_json() for r in content] if name.endswith("jsonl") else content
        for name, content in made.files.items()
    }


@needs_lm_eval
def test_models_are_asked_and_compared_and_a_killed_run_goes_on(world, tmp_path):
    work = stage(world, "boolq", "truthfulqa_mc2")
    lines = run(work, tmp_path / "whole", {})
    whole = files(work, lines, tmp_path / "whole")
    assert [(i["suite"], i["model"]) for i in whole["items.jsonl"]] == [
        (suite, model)
        for model in ("backbone", "vlm")
        for suite, n in (("boolq", 3), ("truthfulqa_mc2", 2))
        for _ in range(n)
    ]
    # a language model is the same within its VLM: nothing was lost, to the last digit
    backbone, vlm = ([i["output"] for i in whole["items.jsonl"] if i["model"] == m] for m in ("backbone", "vlm"))
    assert backbone == vlm
    assert [(r["suite"], r["vlm_minus_backbone"]["mean"]) for r in whole["verdicts.json"]["regression"]] == [
        ("boolq", 0.0),
        ("truthfulqa_mc2", 0.0),
    ]
    assert {suite: len(rows) for suite, rows in whole["questions.json"]["suites"].items()} == {
        "boolq": 3,
        "truthfulqa_mc2": 2,
    }
    assert {(m["suite"], m["name"], m["n"]) for m in whole["metrics.jsonl"]} == {
        ("boolq", "acc", 3),
        ("truthfulqa_mc2", "acc", 2),
    }
    again: dict = {}
    for stop in (1, 2, None):  # killed twice, each time planned anew
        run(stage(world, "boolq", "truthfulqa_mc2"), tmp_path / "killed", again, stop)
    assert files(stage(world, "boolq", "truthfulqa_mc2"), again, tmp_path / "killed") == whole
    # what is asked of one model is never another's answer, nor that of other examples or batch mates
    keys = {unit.key for unit in work.units}
    assert len(keys) == 4 and not keys & {unit.key for unit in stage(world, "boolq", batch_size=2).units}


def test_two_runs_are_compared_by_the_measures_of_their_text_benchmarks(tmp_path):
    """Parts weigh alike in a comparison too: 1 of 2 and 0 of 1 are .25, not a third."""
    from align.analyses.runs import Run
    from align.benchmarks.places import Place

    values = {"a": 1.0, "b": 0.0, "c": 0.0}
    run = Run(name="r", folder=tmp_path, manifest=None, verdicts={"suites": [{"suite": "ethics", "headline": "macro"}]})
    given = {"model": "vlm", "model_sha256": "5c", "decoding": {}, "input_sha256": "", "output": "", "parser": ""}
    run.__dict__["items"] = [
        Item(id=name, suite="ethics", value={"acc": value, "macro": value}, state="ok", **given)
        for name, value in values.items()
    ]
    run.__dict__["places"] = {"ethics": {"a": Place("a", "cm"), "b": Place("b", "cm"), "c": Place("c", "justice")}}
    measures = run.measures("ethics")
    assert [m.name for m in measures] == ["macro", "acc", "cm", "justice"]
    assert estimate(measures[0], run.outcomes("ethics", "vlm"), draws=50).value == 0.25


@needs_lm_eval
def test_choices_can_be_asked_in_words(world, tmp_path):
    """A random model names no option: that is `unparsed`, in no score, and said."""
    made = {}
    for ask in ("templates", "phrase"):
        work = stage(world, "race", "boolq", ask=ask)
        made[ask] = files(work, run(work, tmp_path / ask, {}), tmp_path / ask)
        assert {(i["state"], i["parser"]) for i in made[ask]["items.jsonl"]} == {
            ("unparsed", "option-letter-or-text/1")
        }
        assert {(m["n"], m["n_failed"], m["value"]) for m in made[ask]["metrics.jsonl"]} == {(0, 1, None), (0, 3, None)}
        assert "race: 1 of 1 answers of vlm could not be read" in " ".join(made[ask]["verdicts.json"]["warnings"])
        assert {key for key in json.loads(made[ask]["items.jsonl"][0]["output"])[0]}  # a text, not a likelihood
    first, second = ({i["input_sha256"] for i in made[ask]["items.jsonl"]} for ask in made)
    assert not first & second


@needs_lm_eval
def test_what_does_not_fit_is_told(world, tmp_path):
    """The model has 512 positions: a long passage loses its beginning."""
    long = ROWS["boolq"][0] | {"passage": "The box is red. " * 100}
    data = tmp_path / "data"
    write_rows(data, "boolq")
    (data / "boolq.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (*ROWS["boolq"], long)))
    work = stage(replace(world, data=data), "boolq")
    made = files(work, run(work, tmp_path, {}), tmp_path)
    assert len(made["items.jsonl"]) == 8
    assert made["verdicts.json"]["warnings"] == [
        f"boolq: 1 question(s) lost their beginning to fit into {model}, as lm-eval does it"
        for model in ("backbone", "vlm")
    ]


@needs_lm_eval
def test_a_question_that_leaves_no_room_for_an_answer_is_a_failure(world, tmp_path):
    from align.evaluate.lm_eval_tasks import Harness
    from align.models.load import load_vlm

    loaded = load_vlm(world.vlm)
    loaded.model.config.text_config.max_position_embeddings = 200  # lm-eval writes 256 tokens
    (suite,) = load_text(Text(tasks=("gsm8k",), folder=str(world.data), shots=SHOTS))
    line = Harness(tmp_path).ask(loaded, suite.parts[0], 0, 64, batch_size=8)
    assert line["outputs"] == [None] * 3
    assert {(f["reason"], f["detail"]) for f in line["faults"].values()} == {
        ("too_long", "no room for 256 new tokens in the model's 200")
    }


@needs_lm_eval
def test_recorded_outputs_are_scored_again_by_lm_evals_own_rules(world, tmp_path):
    """GSM8K wants its `#### 4`; the other reading takes the last number."""
    from align.evaluate.lm_eval_tasks import Harness

    (suite,) = load_text(Text(tasks=("gsm8k",), folder=str(world.data), shots=SHOTS))
    harness = Harness(tmp_path)
    texts = {"It is 4.\n#### 4": (1, 1), "So it is 4": (0, 1), "#### 5": (0, 0), "": (0, 0)}
    found = [harness.values(suite.parts[0], 0, [text]) for text in texts]
    assert [(value["strict"], value["flexible"]) for value in found] == list(texts.values())


@needs_lm_eval
@pytest.mark.slow
def test_our_loaded_object_equals_lm_evals_own_command(world, tmp_path):
    """`lm_eval --model hf` on the extracted language model, same rows: same prompts, likelihoods, texts and values.

    One request at a time, since batches are of all tasks there and of one here. Two stand apart: mc2 is summed in
    another order (1e-15), and SQuAD's scorer is fetched from the hub by lm-eval.
    """
    from align.evaluate.lm_eval_tasks import write_task

    work = stage(world, *(name for name in TASKS if name != "squadv2"), batch_size=1)
    work.text = TextWork(work.settings.text, work.contestants[1:], seed=0)  # the VLM alone
    made = files(work, run(work, tmp_path / "ours", {}), tmp_path / "ours")
    ours = {(i["decoding"]["task"], i["id"]): i for i in made["items.jsonl"]}
    parts = {part.name: part for suite in work.text.suites for part in suite.parts}
    for part in parts.values():
        write_task(tmp_path / "tasks" / part.name, part)
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={world.language}"]
    command += ["--tasks", ",".join(parts), "--include_path", str(tmp_path / "tasks"), "--device", "cpu"]
    command += ["--batch_size", "1", "--log_samples", "--output_path", str(tmp_path / "theirs")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    compared = 0
    for name, part in parts.items():
        (file,) = (tmp_path / "theirs").rglob(f"samples_{name}_*.jsonl")
        for line in map(json.loads, file.read_text().splitlines()):
            mine = ours[name, part.documents[line["doc_id"]].id]
            asked = [list(arguments.values()) for arguments in line["arguments"].values()]
            assert mine["input_sha256"] == sha256_of(asked), "another prompt"
            for our, (their,) in zip(json.loads(mine["output"]), line["resps"], strict=True):
                assert our == (their if isinstance(our, str) else [float(their[0]), their[1] == "True"])
            for measure, theirs in part.spec.measures.items():
                metric, _, filtered = theirs.partition(",")
                if not filtered or filtered == line["filter"]:
                    wanted = pytest.approx(line[metric], abs=1e-15) if name == "truthfulqa_mc2" else line[metric]
                    assert mine["value"][measure] == wanted
                    compared += 1
    assert compared == 44
