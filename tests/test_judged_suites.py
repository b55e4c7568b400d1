"""AlpacaEval, MM-Vet and LLaVA-Bench in small: from their own files, through a judge, to their own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from judged_world import judge, load_stage, run, write_lines
from loopback import Config, serve
from PIL import Image as Picture

from align.benchmarks.alpaca_eval_files import ALPACA_EVAL_SCORER
from align.benchmarks.alpaca_eval_questions import ALPACA_EVAL
from align.benchmarks.llava_bench_files import LLAVA_BENCH_SCORER
from align.benchmarks.llava_bench_questions import LLAVA_BENCH
from align.benchmarks.mm_vet_files import MM_VET_SCORER
from align.benchmarks.mm_vet_questions import MM_VET
from align.benchmarks.published import Source
from align.benchmarks.sheet import Files, Scorer, take
from align.formats.store import ImageStore
from annotate.errors import UserError

INSTRUCTIONS = [
    {"instruction": f"Name {i} fruits.", "output": "Apple, pear.", "generator": "davinci", "dataset": "helpful_base"}
    for i in range(6)
]
ITEMS = {
    "v1_0": {"imagename": "0.png", "question": "What is x?", "answer": "-1<AND>-5", "capability": ["math", "ocr"]},
    "v1_1": {"imagename": "1.png", "question": "What is shown?", "answer": "a digit", "capability": ["rec"]},
}
ASKED = [
    {"question_id": i, "image": f"{i}.png", "category": c, "text": "What is shown?"}
    for i, c in enumerate(("conv", "detail", "complex"))
]
RULE = {f"llava_bench_{c}": {"role": "Assistant", "prompt": f"Grade as {c}."} for c in ("conv", "detail", "complex")}


def published(folder: Path) -> dict[str, dict[str, str]]:
    """`evaluate.files` with all three."""
    images = folder / "images"
    images.mkdir()
    for i in range(3):
        Picture.new("RGB", (48, 48), (80 * i, 40, 200)).save(images / f"{i}.png")
    (folder / "alpaca_eval.json").write_text(json.dumps(INSTRUCTIONS))
    (folder / "mm-vet.json").write_text(json.dumps(ITEMS))
    reference = [{"question_id": i, "text": f"A digit {i}.", "answer_id": f"id{i}"} for i in range(3)]
    context = [{"id": i, "image": f"{i}.png", "caption": f"Noise number {i}."} for i in range(3)]
    return {
        "alpaca_eval": {"questions": str(folder / "alpaca_eval.json")},
        "mm_vet": {"questions": str(folder / "mm-vet.json"), "images": str(images)},
        "llava_bench": {
            "questions": write_lines(folder / "questions.jsonl", ASKED),
            "references": write_lines(folder / "answers_gpt4.jsonl", reference),
            "context": write_lines(folder / "context.jsonl", context),
            "images": str(images),
        },
    }


def source(files: dict[str, str]) -> Source:
    root = Path(files["images"]) if "images" in files else None
    return Source(files=files, images=ImageStore(root=root))


def test_what_the_judge_is_shown(tmp_path: Path) -> None:
    files = published(tmp_path)
    (row, *_) = ALPACA_EVAL.read(source(files["alpaca_eval"]))
    first, second = ALPACA_EVAL.judged.asks(row, ["Plum."])
    assert dict(first.texts) == {"question": "Name 0 fruits.", "answer_a": "Plum.", "answer_b": "Apple, pear."}
    assert dict(second.texts) == {"question": "Name 0 fruits.", "answer_a": "Apple, pear.", "answer_b": "Plum."}
    (row, *_) = MM_VET.read(source(files["mm_vet"]))
    assert (row.prompt.turns[0].text, row.category) == ("<image>\nWhat is x?", "ocr+math")
    (ask,) = MM_VET.judged.asks(row, ["-1"])
    assert dict(ask.texts) == {"question": "What is x?", "ref_answer_1": "-1<AND>-5", "answer": "-1"}
    (tmp_path / "rule.json").write_text(json.dumps(RULE))
    rows = LLAVA_BENCH.read(source(files["llava_bench"] | {"rule": str(tmp_path / "rule.json")}))
    (ask,) = LLAVA_BENCH.judged.asks(rows[1], ["Red."])
    # its own rule goes in the place of our instruction
    assert (ask.system, ask.texts["rule"], ask.texts["context"]) == ("", "Grade as detail.", "Noise number 1.")
    assert (ask.texts["answer_a"], ask.texts["answer_b"]) == ("A digit 1.", "Red.")


def test_a_preference_that_goes_with_the_order_is_a_flip(tmp_path: Path) -> None:
    (row, *_) = ALPACA_EVAL.read(source(published(tmp_path)["alpaca_eval"]))

    def worth(first: str, second: str) -> dict[str, float]:
        found = ALPACA_EVAL.judged.worth(row, ["Plum."], {"as_first": [first], "as_second": [second]}, "win_rate")
        return {name: found[name] for name in ("win_rate", "flip")}

    assert worth("first", "second") == {"win_rate": 100.0, "flip": 0.0}  # the model's, wherever it stands
    assert worth("first", "first") == {"win_rate": 50.0, "flip": 1.0}  # the first, whoever wrote it
    assert worth("second", "tie") == {"win_rate": 25.0, "flip": 0.0}
    unread = {"as_first": ["first"], "as_second": [None]}
    assert ALPACA_EVAL.judged.worth(row, ["Plum."], unread, "win_rate") is None


@pytest.mark.parametrize(
    ("suite", "role", "rows", "fault"),
    [
        ("llava_bench", "references", [{"question_id": 0, "text": "A."}], "question 1 has no reference answer"),
        ("llava_bench", "context", [{"image": "0.png", "caption": "A."}], "context does not describe 1.png"),
        ("alpaca_eval", "references", INSTRUCTIONS[:5], "references have no answer to this instruction"),
    ],
)
def test_files_of_two_versions_are_refused(tmp_path: Path, suite: str, role: str, rows: list[Any], fault: str) -> None:
    files = published(tmp_path)[suite]
    files[role] = write_lines(tmp_path / "other.jsonl", rows)
    read = {"llava_bench": LLAVA_BENCH, "alpaca_eval": ALPACA_EVAL}[suite].read
    with pytest.raises(UserError, match=fault):
        read(source(files))


def score(scorer: Scorer, folder: Path, name: str, text: str) -> dict[str, Any]:
    """What `align score` says of a file that a run left."""
    path = folder / Path(name).name
    path.write_text(text)
    return {figure.name: figure for figure in take(scorer, Files(judgments=(path,))).figures}


def test_their_own_files_come_out_and_say_the_same(tmp_path: Path) -> None:
    tiny = pytest.importorskip("tiny_llava")
    model = tiny.save_tiny_llava(tmp_path / "vlm")
    with serve(Config(wires=("openai",))) as service:
        suites = ["alpaca_eval", "mm_vet", "llava_bench"]
        stage = load_stage(tmp_path, model, suites, published(tmp_path), judge(service.url))
        lines = run(stage, tmp_path)
        made = stage.compile(lines, tmp_path).files
        assert service.stats()["refused"] == 0
    ours = {(m.suite, m.name): m for m in made["metrics.jsonl"]}
    assert {i.suite: i.state for i in made["items.jsonl"]} == dict.fromkeys(suites, "ok")
    name = "alpaca_eval/vlm/annotations.json"
    found = score(ALPACA_EVAL_SCORER, tmp_path, name, made[name])
    for measure in ("win_rate", "length_controlled_win_rate"):
        assert ours["alpaca_eval", measure].value == pytest.approx(found[measure].value, abs=1e-6)
    name = "mm_vet/vlm_gpt-test-grade-1runs.json"
    grades = json.loads(made[name])
    assert grades["v1_0"]["model"][0].startswith("gpt-test-") and set(grades) == set(ITEMS)
    assert ours["mm_vet", "score"].value == pytest.approx(
        score(MM_VET_SCORER, tmp_path, name, made[name])["score"].value
    )
    assert (
        ours["mm_vet", "ocr"].value == pytest.approx(100 * grades["v1_0"]["score"][0]) and ours["mm_vet", "rec"].n == 1
    )
    name = "llava_bench/reviews/vlm-eval1.jsonl"
    found = score(LLAVA_BENCH_SCORER, tmp_path, name, made[name])
    for ours_name, theirs in (("score", "score"), ("complex", "score_complex"), ("model_grade", "model_grade")):
        assert ours["llava_bench", ours_name].value == pytest.approx(found[theirs].value)
    reviews = [json.loads(line) for line in made[name].splitlines()]
    answers = [json.loads(line) for line in made["llava_bench/answers/vlm.jsonl"].splitlines()]
    assert [r["answer2_id"] for r in reviews] == [a["answer_id"] for a in answers]
    assert [r["category"] for r in reviews] == [f"llava_bench_{c}" for c in ("conv", "detail", "complex")]
    assert ours["llava_bench", "n_words"].n == 3 and ours["alpaca_eval", "flips"].n == 6
