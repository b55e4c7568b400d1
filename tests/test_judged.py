"""Suites that a judge grades: what it is asked, what is made of its replies, and the stage with a judge on loopback."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small_run
from judged_world import QUESTIONS, REFERENCE, judge, load_stage, mt_bench_files, recipe, run, write_lines
from loopback import Config, Service, expected_grade, serve

from align.benchmarks.judge_prompts import OURS, load_judge_prompts
from align.benchmarks.measures import Outcome, estimate
from align.benchmarks.mt_bench_files import MT_BENCH_SCORER
from align.benchmarks.mt_bench_questions import JUDGED, MT_BENCH, NOISY, read_mt_bench
from align.benchmarks.pictures import with_pictures
from align.benchmarks.published import Source
from align.benchmarks.sheet import Files, take
from align.evaluate.plan import room_faults
from align.recipe import load_recipe
from annotate.errors import UserError

# ----------------------------------------------------------------------------------------------- what the judge is told


def test_fastchats_file_goes_over_our_words_and_only_where_it_says_so(tmp_path: Path) -> None:
    row = {"name": "single-v1", "type": "single", "system_prompt": "Be fair.", "category": "general"}
    row |= {"prompt_template": "[Question]\n{question}\n\n[Answer]\n{answer}", "output_format": "[[rating]]"}
    pair = {"name": "pair-v2", "system_prompt": "Compare.", "prompt_template": "{question} {answer_a} {answer_b}"}
    theirs = load_judge_prompts(write_lines(tmp_path / "judge_prompts.jsonl", [pair, row]))
    assert theirs.render("single-v1", question="Why?", answer="{so} <image>") == (
        "Be fair.",
        "[Question]\nWhy?\n\n[Answer]\n{so} image",  # an answer's braces mean nothing, and it can show no image
    )
    assert theirs.origins(JUDGED.prompts) == f"judge_prompts.jsonl and {OURS}"
    assert theirs.sha256(["single-v1"]) != load_judge_prompts("").sha256(["single-v1"])


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"name": "single-v1", "prompt_template": "{query}"}, "may hold {answer}, {question}"),
        ({"name": "pair-v2", "prompt_template": "{question}"}, "none of these instructions is in it: single-v1, "),
    ],
)
def test_a_file_of_other_instructions_is_refused(tmp_path: Path, row: dict[str, str], fault: str) -> None:
    with pytest.raises(UserError, match=fault.replace("{", "\\{")):
        load_judge_prompts(write_lines(tmp_path / "p.jsonl", [row | {"system_prompt": ""}]))


# --------------------------------------------------------------------------------------------------------- MT-Bench


def test_temperatures_and_references_go_by_category(tmp_path: Path) -> None:
    rows = read_mt_bench(Source(files=mt_bench_files(tmp_path)))
    assert {row.id: row.temperature for row in rows} == {"81": 0.7, "101": 0.0, "131": 0.0, "141": 0.1}
    writing, reasoning = rows[0], rows[1]
    said = ["The 4.", "No."]
    assert [(a.name, a.prompt) for a in JUDGED.asks(writing, said)] == [
        ("turn_1", "single-v1"),
        ("turn_2", "single-v1-multi-turn"),
    ]
    first, second = JUDGED.asks(reasoning, said)
    assert dict(first.texts) == {"question": "Which digit is blue?", "answer": "The 4.", "ref_answer_1": "The 4."}
    assert second.prompt == "single-math-v1-multi-turn"
    text = load_judge_prompts("").render(second.prompt, **second.texts)[1]
    order = ["The 4.", "Yes, the 7.", "Which digit is blue?", "The 4.", "Is there a red digit?", "No."]
    places = [text.index(order[0])]
    for part in order[1:]:
        places.append(text.index(part, places[-1] + 1))  # references first, then the whole dialogue
    assert places == sorted(places)


def test_a_reasoning_question_without_its_reference_is_refused(tmp_path: Path) -> None:
    given = {"questions": write_lines(tmp_path / "q.jsonl", QUESTIONS)}
    given["references"] = write_lines(tmp_path / "r.jsonl", [REFERENCE | {"question_id": 999}])
    with pytest.raises(UserError, match=r"q.jsonl:2: reasoning is graded beside reference answers, one a turn; .* 0"):
        read_mt_bench(Source(files=given))


def test_repeats_give_a_mean_and_the_judges_own_spread(tmp_path: Path) -> None:
    (row, *_) = read_mt_bench(Source(files=mt_bench_files(tmp_path)))
    worth = JUDGED.worth(row, ["a b c", "d"], {"turn_1": [8.0, 6.0], "turn_2": [4.0, None]}, "score")
    # turn 1: 7, turn 2: the one grade that could be had; the second repeat has no score of its own
    assert worth == {"score": 5.5, "turn_1": 7.0, "turn_2": 4.0, "n_words": 2.0, "score@1": 6.0}
    assert JUDGED.worth(row, ["a", "b"], {"turn_1": [8.0, 6.0], "turn_2": [None, None]}, "score") is None
    asked = [{"score@1": 6.0, "score@2": 8.0}, {"score@1": 4.0, "score@2": 4.0}]
    outcomes = [Outcome(id=str(i), value=value) for i, value in enumerate(asked)]
    # the benchmark is 5 by the first repeat and 6 by the second: sd of 5 and 6
    assert estimate(JUDGED.spread(2, "score"), outcomes).value == pytest.approx(0.5**0.5)


# ------------------------------------------------------------------------------------------- pictures beside the point


def test_a_picture_is_decided_by_seed_and_row(tmp_path: Path) -> None:
    from tiny_llava import save_image

    rows = read_mt_bench(Source(files=mt_bench_files(tmp_path)))
    for i in range(3):
        save_image(tmp_path, f"photo{i}.png", seed=i, size=(20, 30))
    made = {
        kind: with_pictures(rows, kind, seed=7, photos=str(tmp_path))[0]
        for kind in ("blank", "gaussian", "photo", "corrupted")
    }
    assert made["gaussian"] == with_pictures(rows, "gaussian", seed=7)[0]
    assert made["gaussian"] != with_pictures(rows, "gaussian", seed=8)[0]
    shas = {kind: [row.noise_image.sha256 for row in shown if row.noise_image] for kind, shown in made.items()}
    assert [len(set(shas[kind])) for kind in ("blank", "gaussian")] == [1, 4]
    pictures = with_pictures(rows, "corrupted", seed=7, photos=str(tmp_path))[1]
    one = pictures[shas["corrupted"][0]]
    file = one.file(tmp_path / "work")
    assert file.read_bytes() == one.file(tmp_path / "elsewhere").read_bytes()  # drawn again, the same bytes
    assert file.read_bytes() != one.photo.read_bytes()
    with pytest.raises(UserError, match="photos: missing; name a folder"):
        with_pictures(rows, "photo", seed=7)


def test_the_pictures_features_really_enter_the_model(folder: Path, tmp_path: Path) -> None:
    """Log-probabilities of an answer move with the picture; where none is shown, nothing moves them."""
    from align.models.load import load_vlm
    from align.sample.engine import Ask, score

    loaded = load_vlm(folder)
    (row, *_) = read_mt_bench(Source(files=mt_bench_files(tmp_path)))
    asks = []
    for kind, seed in (("blank", 0), ("gaussian", 0), ("gaussian", 0), ("gaussian", 1)):
        (shown, *_), pictures = with_pictures([row], kind, seed=seed)
        image = shown.noise_image
        turn = NOISY[0].first_turn(shown)
        asks.append(Ask(key="81", turns=(turn,), images=(pictures[image.sha256].file(tmp_path),)))
    clean = Ask(key="81", turns=(MT_BENCH.first_turn(row),))
    found = [score(loaded, [ask], [["Apple."]])[0][0] for ask in [*asks, clean, clean]]
    blank, noise, same_noise, other_noise, without, without_again = found
    assert noise == same_noise and without == without_again  # the control: the same input, to the last bit
    assert len({blank, noise, other_noise, without}) == 4
    assert abs(noise - other_noise) > 1e-4  # two noises are two pictures to the model, not one


# ----------------------------------------------------------------------------------------------------------- the stage


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with serve(Config(wires=("openai",))) as service:
        yield service


@pytest.fixture
def service(running: Service) -> Service:
    running.reset(Config(wires=("openai",), keep_requests=100))
    return running


def test_mt_bench_from_questions_to_fastchats_files(folder: Path, service: Service, tmp_path: Path) -> None:
    """Judged by what the service says of each text; scored again from the files that are left, to the same number."""
    files = {"mt_bench": mt_bench_files(tmp_path)}
    suites = ["mt_bench", "mt_bench_noisy_image"]
    stage = load_stage(tmp_path, folder, suites, files, judge(service.url, repeats=2))
    calls = stage.estimate(stage.units).calls
    lines = run(stage, tmp_path)
    stats = service.stats()
    # 2 suites x 4 questions x 2 turns x 2 repeats; a repeat asks the same, and what two suites ask alike is asked once
    assert calls == 32 >= stats["admitted"] and stats["connections"] <= 32
    compiled = stage.compile(lines, tmp_path)
    made = compiled.files
    judgments = [json.loads(line) for line in made["mt_bench/model_judgment/gpt-test_single.jsonl"].splitlines()]
    assert [(j["question_id"], j["turn"]) for j in judgments] == [(q, t) for q in (81, 101, 131, 141) for t in (1, 2)]
    assert judgments[2]["judge"] == ["gpt-test", "single-math-v1"] and judgments[0]["judge_model"].startswith(
        "gpt-test-"
    )
    assert all(j["score"] == expected_grade(j["user_prompt"]) for j in judgments)
    answers = [json.loads(line) for line in made["mt_bench/model_answer/vlm.jsonl"].splitlines()]
    items = [i for i in made["items.jsonl"] if i.suite == "mt_bench"]
    assert [a["choices"][0]["turns"] for a in answers] == [json.loads(i.output) for i in items]
    assert [i.decoding["temperature"] for i in items] == [0.7, 0.0, 0.0, 0.1] and items[0].decoding["seed"] == 0
    # our own reader of recorded files comes to the same number
    paths = []
    for k, name in enumerate(("gpt-test_single", "gpt-test_single_2")):
        paths.append(tmp_path / f"{k}.jsonl")
        paths[-1].write_text(made[f"mt_bench/model_judgment/{name}.jsonl"])
    again = {f.name: f.value for f in take(MT_BENCH_SCORER, Files(judgments=tuple(paths))).figures}
    ours = {m.name: m for m in made["metrics.jsonl"] if m.suite == "mt_bench"}
    assert ours["score"].value == pytest.approx(again["score"]) and ours["score"].judge == "openai_chat gpt-test"
    assert ours["judge_sd"].value == pytest.approx(again["judge_sd"]) and ours["n_words"].n == 4
    (noise,) = made["verdicts.json"]["noise"]
    assert (noise["suite"], noise["clean"], noise["minus_clean"]["n"]) == ("mt_bench_noisy_image", "mt_bench", 4)
    assert compiled.told.startswith("mt_bench_noisy_image minus mt_bench, vlm: ")
    told = [text for text in made["verdicts.json"]["warnings"] if text.startswith("mt_bench: ")]
    assert "instructed by our own wording" in told[0] and "reference answers (sha256" in told[1]
    # the replies that are left are a judge themselves, and a free one
    write_lines(tmp_path / "replies.jsonl", made["judge_replies.jsonl"])
    by = {"backend": "replay", "options": {"file": str(tmp_path / "replies.jsonl")}, "answer_tokens": 6, "repeats": 2}
    replayed = load_stage(tmp_path, folder, suites, files, by)
    answered = {unit.key: lines[unit.key] for unit in (*stage.answers, *stage.probes)}
    other = replayed.compile(run(replayed, tmp_path / "replayed", answered), tmp_path).files
    assert [i.value for i in other["items.jsonl"]] == [i.value for i in made["items.jsonl"]]


UNREAD = (
    "2 of 8 judge calls failed, unparsable: no grade in the reply; see judge_replies.jsonl: does the judge keep to the "
    "form it is told?"
)


def test_a_judge_that_fails_gives_no_number(folder: Path, service: Service, tmp_path: Path) -> None:
    """A reply without a grade, a refusal and a proxy's page: recorded failures, never a score."""
    asked = [
        q | {"turns": [f"{turn} {what}" for turn in q["turns"]]}  # type: ignore[attr-defined]
        for q, what in zip(
            QUESTIONS,
            ("", "[[scenario:broken_json_text]]", "[[scenario:safety]]", "[[scenario:broken_json_text*1]]"),
            strict=True,
        )
    ]
    files = {"mt_bench": mt_bench_files(tmp_path, asked)}
    stage = load_stage(tmp_path, folder, ["mt_bench"], files, judge(service.url))
    lines = run(stage, tmp_path)
    made = stage.compile(lines, tmp_path).files
    # what could not be read is asked again; the last one is good at the second try
    assert [i.state for i in made["items.jsonl"]] == ["ok", "judge_failed", "judge_failed", "ok"]
    assert made["items.jsonl"][1].value == {}
    compiled = stage.compile(lines, tmp_path)
    assert (compiled.funnel["graded by the judge"], compiled.funnel["judge failed"]) == (2, 2)
    unread, refused = sorted(compiled.told.splitlines(), key=lambda line: "blocked" in line)
    assert unread == UNREAD and refused.startswith("2 of 8 judge calls failed, blocked: ")
    (score,) = (m for m in made["metrics.jsonl"] if m.name == "score")
    assert (score.value, score.n, score.n_failed) == (None, 2, 2)  # too few for a headline
    judgments = [json.loads(line) for line in made["mt_bench/model_judgment/gpt-test_single.jsonl"].splitlines()]
    assert [j["score"] for j in judgments][2:6] == [-1, -1, -1, -1]
    assert (
        "mt_bench: 4 of 8 replies of the judge gave no grade; they are in no score" in made["verdicts.json"]["warnings"]
    )
    # nothing that was settled is asked again, and a failure only where it is told to
    before = service.stats()["admitted"]
    undone = {k: v for k, v in lines.items() if k not in {u.key for u in stage.judged}}
    run(load_stage(tmp_path, folder, ["mt_bench"], files, judge(service.url)), tmp_path, undone)
    assert service.stats()["admitted"] == before


def test_a_judged_suite_without_a_judge_is_told_before_any_work(tmp_path: Path) -> None:
    path = recipe(tmp_path, tmp_path, ["mt_bench"], {}, {})
    path.write_text(path.read_text().replace(', "judge": {}', ""))
    with pytest.raises(UserError, match=r"evaluate.judge: missing: mt_bench is graded by a judge"):
        load_recipe(path)


def test_a_judge_that_cannot_grade_the_suite_is_told_before_any_work(tmp_path: Path) -> None:
    for by in ({}, {"backend": "rules"}):
        with pytest.raises(UserError, match=r"judge\S*: rules, the default, .* mt_bench has none; .*openai_chat"):
            load_recipe(recipe(tmp_path, tmp_path, ["mt_bench"], {}, by))


def test_a_limit_without_room_for_a_question_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"text_config": {"max_position_embeddings": 512}}')
    by = {"backend": "openai_chat", "model": "gpt-4o"}
    found = {}
    for limit in (511, 512):
        loaded = load_recipe(recipe(tmp_path, tmp_path, ["mt_bench"], {}, by | {"answer_tokens": limit}))
        assert loaded.evaluate is not None
        found[limit] = list(room_faults(loaded.evaluate, tmp_path))
    told = "evaluate.judge.answer_tokens: 512 leaves no room for a question in the model's 512 positions; lower it"
    assert found == {511: [], 512: [told]}


def test_an_estimate_counts_what_this_judge_answered(folder: Path, service: Service, tmp_path: Path) -> None:
    """The model's own answers are none of the judge's; of a killed run, those that the judge's journal holds are."""
    files = {"mt_bench": mt_bench_files(tmp_path)}

    def estimated(lines: dict[str, Any], by: dict[str, Any]) -> tuple[int, int]:
        stage = load_stage(tmp_path, folder, ["mt_bench"], files, by)
        stage.recall(lines, tmp_path)
        found = stage.estimate([unit for unit in stage.units if unit.key not in lines])
        return found.calls, found.cached

    by, other = judge(service.url), judge(service.url, model="gpt-other")
    stage = load_stage(tmp_path, folder, ["mt_bench"], files, by)
    lines = run(stage, tmp_path)
    assert estimated(lines, by) == (0, 8) and estimated(lines, other) == (8, 0)
    answered = {unit.key: lines[unit.key] for unit in (*stage.answers, *stage.probes)}
    journal = tmp_path / "judge" / "journal.jsonl"
    journal.write_text("".join(line + "\n" for line in journal.read_text().splitlines()[:3]))
    assert estimated(answered, by) == (5, 3) and estimated({}, by) == (8, 0)


def test_a_paid_judge_is_asked_only_where_that_is_said(tmp_path: Path) -> None:
    """`align run` stops before it spends, with what it would be; `align estimate` counts the judge's calls."""
    (tmp_path / "vlm").mkdir()
    (tmp_path / "vlm" / "config.json").write_text("{}")
    options = {"base_url": "http://127.0.0.1:9/v1"}
    by = {"backend": "openai_chat", "model": "gpt-4o", "options": options, "repeats": 3}
    path = recipe(tmp_path, tmp_path / "vlm", ["mt_bench"], {"mt_bench": mt_bench_files(tmp_path)}, by)
    ran = small_run.align("run", path, cwd=tmp_path)
    assert ran.returncode == 2 and "evaluate would spend money: 24 calls" in ran.stderr and "$" in ran.stderr
    said = small_run.align("estimate", path, cwd=tmp_path)
    # 4 questions x 2 turns x 3 repeats
    assert said.returncode == 0 and "evaluate   24 calls; about" in said.stdout, said.stderr


@pytest.mark.slow
def test_a_killed_run_repeats_no_call_that_was_answered(folder: Path, running: Service, tmp_path: Path) -> None:
    """SIGKILL in the middle of the judging; the second run asks what was in flight, and nothing else."""
    running.reset(Config(wires=("openai",), latency=0.3, requests_per_minute=600, burst=1))
    many = [{"question_id": i, "category": "humanities", "turns": [f"Name {i} fruits.", "Why?"]} for i in range(30)]
    files = {"mt_bench": mt_bench_files(tmp_path, many)}
    by = judge(running.url, requests_per_minute=600)
    path = recipe(tmp_path, folder, ["mt_bench"], files, by)
    process = small_run.start("evaluate", path, cwd=tmp_path)
    while running.stats()["admitted"] < 20:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = (tmp_path / "runs/judged/evaluate/work/judge/journal.jsonl").read_bytes().count(b"\n")
    paid = sum(running.stats()["paid"].values())
    assert 5 < kept < 60
    again = small_run.align("evaluate", path, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    stats = running.stats()
    assert len(stats["paid"]) == 60 and stats["duplicates"] <= paid - kept
    items = (tmp_path / "runs/judged/evaluate/items.jsonl").read_text().splitlines()
    assert len(items) == 30 and all(json.loads(line)["state"] == "ok" for line in items)
