"""The report: the table and its sentence from literal verdicts, and a page that shows untrusted text as text."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import pytest

from align.report.cards import make_cards, thumbnail
from align.report.gather import Findings
from align.report.page import funnel_steps, render_page, report_json
from align.report.stage import ReportWork
from align.report.table import build_table
from align.report.terminal import WIDTH, render_text
from align.report.words import sentence, signed
from align.settings import Report
from annotate.records import (
    Annotated,
    Annotation,
    Completion,
    Image,
    Metric,
    PreferencePair,
    Prompt,
    Rating,
    Turn,
    replace,
)


def difference(mean: float, p: float = 0.001, n: int = 100) -> dict:
    return {"mean": mean, "low": round(mean - 0.05, 6), "high": round(mean + 0.05, 6), "p": p, "n": n}


def compared(suite: str, model: str, verdict: str, mean: float, p: float = 0.001, share=None) -> dict:
    made = {"suite": suite, "model": model, "verdict": verdict, "share": share, "minus_vlm": difference(mean, p)}
    return made | {"minus_backbone": None}


VERDICTS = {
    "schema": "verdicts/1",
    "margin": 0.02,
    "models": {"backbone": "aa" * 32, "vlm": "bb" * 32, "sft": "cc" * 32, "dpo": "dd" * 32},
    "suites": [
        {"suite": "text_instructions", "text": True, "control": False, "headline": "headline", "n": 100},
        {"suite": "pope", "text": False, "control": False, "headline": "accuracy", "n": 100},
        {"suite": "pope_blank", "text": False, "control": True, "headline": "accuracy", "n": 100},
    ],
    "regression": [
        {"suite": "text_instructions", "verdict": "present", "vlm_minus_backbone": difference(-0.46)},
    ],
    "comparisons": [
        compared("text_instructions", "sft", "worse", -0.1),
        compared("text_instructions", "dpo", "partly repaired (40% [29%, 51%])", 0.18, share=[0.4, 0.29, 0.51]),
        compared("pope", "sft", "not shown", -0.01, p=0.8),
        compared("pope", "dpo", "kept", 0.0, p=1.0),
    ],
    "controls": [
        {"suite": "pope", "name": "share of yes among the answers", "value": 0.7, "bound": "0.35 to 0.65", "ok": False},
        {"suite": "pope_blank", "name": "accuracy when grey", "value": 0.5, "bound": "at most 0.55", "ok": True},
    ],
    "warnings": [],
}


def metric(suite: str, name: str, model: str, value: float | None, **more) -> Metric:
    low, high = (None, None) if value is None else (round(value - 0.05, 6), round(value + 0.05, 6))
    return Metric(**{"suite": suite, "name": name, "model": model, "value": value, "low": low, "high": high,
                     "n": 100, "n_failed": 0} | more)  # fmt: skip


METRICS = [
    metric("text_instructions", "headline", "backbone", 0.91),
    metric("text_instructions", "n_words", "backbone", 6.1),
    metric("text_instructions", "headline", "vlm", 0.45),
    metric("text_instructions", "n_words", "vlm", 1.9),
    metric("text_instructions", "headline", "sft", 0.35),
    metric("text_instructions", "n_words", "sft", 9.25),
    metric("text_instructions", "headline", "dpo", 0.63),
    metric("text_instructions", "n_words", "dpo", 4.0),
    *(
        metric(suite, name, model, value)
        for suite in ("pope", "pope_blank")
        for model in ("vlm", "dpo")
        for name, value in (("accuracy", 0.81), ("f1", 0.8), ("yes_ratio", 0.48), ("n_words", 1.0))
    ),
    metric("pope", "accuracy", "sft", None, n=12, n_failed=88),
    metric("pope", "f1", "sft", None, n=12, n_failed=88),
]


@pytest.fixture
def table():
    return build_table(VERDICTS, METRICS)


# --------------------------------------------------------------------------------------------------------- the table


def test_the_table_for_a_terminal(table):
    text = render_text("A run", "shipped, trained by recipes/demo_base.yaml with seed 0", VERDICTS, table)
    lines = text.splitlines()
    assert lines[0:2] == ["A run", "model: shipped, trained by recipes/demo_base.yaml with seed 0"]
    assert max(map(len, lines)) <= WIDTH == 120
    rows = [re.split(r"\s{2,}", line) for line in lines]
    assert ["text, two turns", "yes/no (POPE)"] in [row[1:] for row in rows]  # the control is not among the suites
    assert ["language backbone", ".91 [.86,.96]", "–"] in rows  # it sees nothing
    assert ["VLM", ".45 [.40,.50]", ".81 [.76,.86]"] in rows
    assert ["SFT on teacher", ".35 [.30,.40]▼", "unreadable"] in rows
    assert ["DPO", ".63 [.58,.68]▲", ".81 [.76,.86]"] in rows
    # F1, yes-ratio and length stand beside it; the control's accuracy too
    assert ["", "words", "F1", "yes", "words", "acc.", "F1", "yes", "words"] in rows
    assert ["DPO", "4.0", ".80", ".48", "1.0", ".81", ".80", ".48", "1.0"] in rows
    assert "text, two turns  VLM − backbone        −0.46 [−0.51, −0.41]  p=0.001  MDE .07  regression: present" in text
    assert ["DPO − VLM", "+0.00 [−0.05, +0.05]", "p=1.000", "MDE .07", "kept"] in [row[1:] for row in rows]
    assert "! control not met: yes/no (POPE): share of yes among the answers is 0.70, should be 0.35 to 0.65" in text


def test_what_corruption_costs_has_its_interval_and_one_image_has_none():
    corrupted = {"suite": "pope+blur", "text": False, "control": True, "headline": "accuracy", "n": 100}
    verdicts = VERDICTS | {"suites": [*VERDICTS["suites"], corrupted]}
    metrics = [*METRICS, metric("pope+blur", "relative_change", "vlm", -0.25)]
    assert "-0.25 [-0.30,-0.20]" in render_text("A run", "", verdicts, build_table(verdicts, metrics))
    alone = [replace(m, low=None, high=None) if m.suite == "pope" else m for m in METRICS]
    text = render_text("A run", "", VERDICTS, build_table(VERDICTS, alone))
    assert " ".join(text.split()).count("a value alone has no interval: its questions are about one image") == 1


def test_the_alignment_tax_is_told_suite_by_suite(table):
    lost = {"pope": difference(-0.38)}
    verdicts = VERDICTS | {
        "tax": [
            {"model": "sft", "n_suites": 3, "n_not_shown": 1, "lost": lost, "sum": 0.38},
            {"model": "dpo", "n_suites": 3, "n_not_shown": 0, "lost": {}, "sum": 0.0},
        ]
    }
    said = (
        "SFT on teacher: yes/no (POPE) −0.38 [−0.43, −0.33]; 38 points of the scale in all "
        "(significantly worse on 1 of 3 suites, not shown on 1)"
    )
    nothing = "DPO: none shown (significantly worse on 0 of 3 suites)"
    text = " ".join(render_text("A run", "", verdicts, table).split())
    assert f"alignment tax: {said} {nothing}" in text
    page = render_page(Findings(title="A run", name="a", seed=0, verdicts=verdicts, metrics=METRICS), table, cards=0)
    assert said in page and nothing in page


def test_many_suites_are_set_in_blocks_that_fit():
    suites = [VERDICTS["suites"][0] | {"suite": f"suite_number_{i}"} for i in range(12)]
    metrics = [replace(m, suite=s["suite"]) for s in suites for m in METRICS if m.suite == "text_instructions"]
    verdicts = VERDICTS | {"suites": suites, "regression": [], "comparisons": []}
    text = render_text("Many", "", verdicts, build_table(verdicts, metrics))
    headed = [line for line in text.splitlines() if line.startswith("language backbone") and "[" in line]
    assert len(headed) == 2 and max(map(len, text.splitlines())) <= WIDTH


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "DPO won back 40% [29%, 51%] of that (+0.18 [+0.13, +0.23])."),
        ({"verdict": "repaired", "share": None}, "DPO repaired it (+0.18 [+0.13, +0.23])."),
        ({"verdict": "not shown", "share": None}, "That DPO wins any of it back is not shown (+0.18 [+0.13, +0.23])."),
        ({"verdict": "worse", "share": None}, "DPO made it worse (+0.18 [+0.13, +0.23])."),
    ],
)
def test_the_sentence_says_the_verdict_unflattering_or_not(changes, said):
    rows = [row | changes if (row["suite"], row["model"]) == ("text_instructions", "dpo") else row
            for row in VERDICTS["comparisons"]]  # fmt: skip
    spoken = sentence(VERDICTS | {"comparisons": rows})
    assert spoken.startswith("Visual tuning cost this language model 46 points on two-turn text instructions. ")
    assert said in spoken and spoken.endswith("On images DPO is nowhere significantly worse.")


def test_the_sentence_names_a_better_method_and_what_it_cost():
    rows = [
        compared("text_instructions", "sft", "partly repaired (70% [60%, 80%])", 0.32, share=[0.7, 0.6, 0.8]),
        compared("text_instructions", "dpo", "partly repaired (40% [29%, 51%])", 0.18, share=[0.4, 0.29, 0.51]),
        compared("pope", "dpo", "worse", -0.2),
    ]
    spoken = sentence(VERDICTS | {"comparisons": rows})
    assert "SFT on teacher gained more (+0.32 [+0.27, +0.37])." in spoken
    assert spoken.endswith("It cost DPO yes/no questions about images −0.20 [−0.25, −0.15].")


def test_a_model_that_was_tuned_otherwise_prevents_and_does_not_repair():
    rows = [
        *VERDICTS["comparisons"],
        compared("text_instructions", "mlan", "partly repaired (90% [80%, 99%])", 0.41, share=[0.9, 0.8, 0.99]),
        compared("pope", "mlan", "worse", -0.2),
    ]
    models = {"backbone": "aa", "vlm": "bb", "mlan": "ee", "sft": "cc", "dpo": "dd"}
    found = VERDICTS | {"comparisons": rows, "models": models, "also": {"mlan": "trained by mlan.yaml, stage tune"}}
    spoken = sentence(found)
    assert "DPO won back 40%" in spoken and "mlan gained more" not in spoken
    assert spoken.endswith(
        "Tuned otherwise, mlan loses less: 90% [80%, 99%] of that is prevented (+0.41 [+0.36, +0.46] against the VLM). "
        "It cost mlan yes/no questions about images −0.20 [−0.25, −0.15]."
    )
    shown = render_text("T", "", found, build_table(found, METRICS))
    assert "mlan − VLM            +0.41 [+0.36, +0.46]  p=0.001  MDE .07  partly prevented (90% [80%, 99%])" in shown
    assert "DPO − VLM             +0.18 [+0.13, +0.23]  p=0.001  MDE .07  partly repaired (40% [29%, 51%])" in shown
    assert "mlan: a further model, trained by mlan.yaml, stage tune" in shown
    assert sentence(found | {"comparisons": rows[-1:]}).endswith("It cost mlan yes/no questions about images "
                                                                 "−0.20 [−0.25, −0.15].")  # fmt: skip


def test_a_regression_that_is_not_shown_is_not_claimed():
    for verdict, said in (("none", "nothing that matters"), ("not shown", "is not shown")):
        regression = [VERDICTS["regression"][0] | {"verdict": verdict}]
        assert said in sentence(VERDICTS | {"regression": regression, "comparisons": []})


def test_differences_without_bounds_have_none():
    assert signed(difference(-0.5) | {"low": None}) == "−0.50" and signed(None) == "–"


# ---------------------------------------------------------------------------------------------------------- the page

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>'


def annotated(text: str = EVIL, image: Image | None = None, source: str = "digits") -> tuple[Annotated, PreferencePair]:
    """Four completions, the second hostile, the reasons too; chosen is the last."""
    turn = Turn(
        role="user", text=f"{'<image>' if image else ''}\nIs there a 7? {text}", images=(image,) if image else ()
    )
    prompt = Prompt.of((turn,), source=source)
    texts = ["No.", text, "Perhaps.", "Yes, there is a 7."]
    completions = tuple(Completion.of(prompt_id=prompt.id, model="m", index=i, text=t) for i, t in enumerate(texts))
    attributes = ("helpfulness", "correctness", "coherence")
    ratings = tuple(
        Rating(completion_id=c.id, scores=dict.fromkeys(attributes, i + 1), rationale=f"reason {i} {text}")
        for i, c in enumerate(completions)
    )
    annotation = Annotation(
        id="a",
        prompt_id=prompt.id,
        mode="listwise",
        pass_index=0,
        shown_order=tuple(c.id for c in completions),
        ratings=ratings,
        reasoning=f"thinking {text}",
        backend="rules",
        model="rules-1",
        rubric="helpsteer",
        rubric_sha256="0",
        request_sha256="0",
    )
    pair = PreferencePair(id="p", prompt=prompt, chosen=completions[3], rejected=completions[0], margin=9.0, rule="r")
    return Annotated(prompt=prompt, completions=completions, annotations=(annotation,)), pair


FUNNEL = {
    "total": {"prompts": 10, "annotated": 8, "rated": 8, "margin": 5, "kept": 4},
    "sources": {"digits": {"prompts": 10, "annotated": 8, "rated": 8, "margin": 5, "kept": 4}},
    "sets": {"preference": {"rows": 4, "prompts": 4, "failures": {}}},
}
LOG = [{"step": i, "loss": 0.7 - i / 100, "rewards/accuracies": 0.5, "rewards/margins": i / 10} for i in range(1, 8)]


def findings(folder: Path, **changes) -> Findings:
    """A whole run in small, with hostile text wherever text is a model's or a user's."""
    from PIL import Image as Pillow

    Pillow.new("RGB", (600, 300), "red").save(folder / "a.png")
    row, pair = annotated(image=Image(path="a.png", sha256="0"))
    made = {
        "title": f"Digits {EVIL}",
        "name": "demo",
        "seed": 7,
        "base": "shipped",
        "score": ("helpfulness", "correctness", "coherence"),
        "min_margin": 2.0,
        "verdicts": VERDICTS,
        "metrics": METRICS,
        "annotated": [row],
        "pairs": [pair],
        "funnel": FUNNEL,
        "failures": {"sample: too long": 2},
        "logs": {"dpo": LOG, "sft": [{"step": 1, "loss": 2.0}]},
        "image_root": folder,
    }
    return Findings(**made | changes)


def page(found: Findings, cards: int = 6) -> str:
    return render_page(found, build_table(found.verdicts, found.metrics) if found.verdicts else None, cards=cards)


def test_untrusted_text_is_shown_and_never_run(tmp_path):
    html = page(findings(tmp_path))
    assert "<script" not in html.lower() and "<img src=x" not in html
    assert (
        html.count("&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;") >= 6
    )  # title, question, answer, reasons, thoughts
    assert "default-src 'none'" in html


def test_the_page_asks_nobody_for_anything(tmp_path):
    html = page(findings(tmp_path))
    addresses = set(re.findall(r"https?://[^\s\"'<>)]+", html))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, not addresses
    assert all(uri.startswith("data:image/png;base64,") for uri in re.findall(r'src="([^"]*)"', html))
    assert not re.search(r"<link|<iframe|<object|@import|url\((?!#)", html)


def test_the_same_run_gives_the_same_bytes(tmp_path):
    found = findings(tmp_path)
    assert page(found) == page(found)
    assert str(tmp_path) not in page(found) and str(Path.cwd()) not in page(found)


def test_ids_of_figures_do_not_meet(tmp_path):
    html = page(findings(tmp_path))
    clips = re.findall(r'<clipPath id="([^"]+)"', html)
    assert clips and len(clips) == len(set(clips))
    assert "var(--dpo)" in html and "#090909" not in html  # drawn in the page's own colours


@pytest.mark.parametrize(
    ("missing", "gone"),
    [
        ({"verdicts": {}, "metrics": []}, ["verdict", "differences", "suites", "lengths", "controls", "models"]),
        ({"annotated": [], "pairs": [], "funnel": {}}, ["road", "scores", "samples"]),
        ({"logs": {}}, ["training"]),
    ],
)
def test_what_the_recipe_lacks_is_left_out(tmp_path, missing, gone):
    every = {
        "verdict",
        "differences",
        "suites",
        "lengths",
        "road",
        "scores",
        "training",
        "samples",
        "controls",
        "models",
    }
    assert set(re.findall(r'<section id="(\w+)"', page(findings(tmp_path)))) == every
    assert set(re.findall(r'<section id="(\w+)"', page(findings(tmp_path, **missing)))) == every - set(gone)


def test_an_empty_run_still_makes_a_page():
    assert "<h1>Nothing yet</h1>" in page(Findings(title="Nothing yet", name="n", seed=0))


def test_a_run_without_evaluation_says_how_far_its_prompts_went(tmp_path):
    compiled = ReportWork(findings(tmp_path, verdicts={}, metrics=[], title="Mine"), Report()).compile({}, tmp_path)
    assert compiled.files["table.txt"].splitlines() == [
        "Mine",
        "model: shipped",
        "",
        "no `evaluate` block: nothing to compare",
        "",
        "      10  prompts",
        "       8  annotated",
        "       8  with at least two scored completions",
        "       5  with two completions far enough apart",
        "       4  kept",
        "",
        "       2  lost at sample: too long",
    ]


def test_warnings_stand_on_the_first_screen(tmp_path):
    html = page(
        findings(tmp_path, verdicts=VERDICTS | {"warnings": ["judge and annotator are of one family (gemini)"]})
    )
    first = html[html.index('id="verdict"') : html.index('id="differences"')]
    assert "<li>judge and annotator are of one family (gemini)</li>" in first


def test_a_card_shows_scores_reasons_and_the_pair(tmp_path):
    (card,) = make_cards(findings(tmp_path), 6)
    assert [(a.total, a.role) for a in card.answers] == [(3, "rejected"), (6, ""), (9, ""), (12, "chosen")]
    assert card.margin == 9.0 and card.turns[0][1].startswith("Is there a 7?") and "reason 3" in card.answers[3].reason


def test_cards_take_turns_over_sources(tmp_path):
    rows = [annotated(f"{source} {i}", source=source) for source in ("digits", "charts", "text") for i in range(9)]
    found = findings(tmp_path, annotated=[row for row, _ in rows], pairs=[pair for _, pair in rows])
    assert [c.source for c in make_cards(found, 5)] == ["digits", "charts", "text", "digits", "charts"]
    assert make_cards(found, 0) == []


def test_images_are_small_and_may_be_gone(tmp_path):
    from PIL import Image as Pillow

    findings(tmp_path)
    uri = thumbnail(tmp_path / "a.png", limit=10**6)
    with Pillow.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as image:
        assert image.size == (240, 120)
    assert thumbnail(tmp_path / "a.png", limit=1000) == ""  # too large to be opened
    assert thumbnail(tmp_path / "gone.png", limit=10**6) == ""


def test_the_funnel_is_in_shares_of_the_first_step():
    assert [(s.label, s.count, s.share) for s in funnel_steps({"prompts": 8, "annotated": 6, "kept": 2})] == [
        ("prompts", 8, 1.0),
        ("annotated", 6, 0.75),
        ("kept", 2, 0.25),
    ]
    assert funnel_steps({}) == []


def test_the_report_for_machines_and_its_unit(tmp_path):
    found = findings(tmp_path)
    work = ReportWork(found, Report())
    compiled = work.compile({}, tmp_path)
    assert set(compiled.files) == {"report.html", "report.json", "table.txt"}
    made = json.loads(json.dumps(compiled.files["report.json"]))
    assert (
        made["verdicts"]["regression"][0]["verdict"] == "present"
        and made["facts"]["annotator"] == "rules rules-1 (1 calls)"
    )
    assert made == report_json(found, work.table)
    assert made["training"]["dpo"]["last"]["step"] == 7
    other = ReportWork(replace(found, seed=8), Report())
    assert other.units[0].key != work.units[0].key
