"""`align analyse diversity`: pairs of questions, their likeness, and what the means of likeness can be held to say."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from align.analyses.diversity import Pairs, Rows, compare, draw_pairs, spread
from align.analyses.embedders import NGrams
from align.analyses.questions import read_questions
from align.cli import main
from align.templates import SHORT_ANSWER, Templates, as_instruction
from align.train.rows import Conversation
from annotate.records import Example, Image, Prompt, Turn

SHAPES = ("circle", "square", "star", "ring", "cross", "arrow", "heart", "moon")
TOPICS = (
    "Who wrote Hamlet?",
    "Sum 12 and 30.",
    "Name a river in Peru.",
    "Translate 'house' into German.",
    "Why do leaves fall?",
    "When did the war of 1812 end?",
    "Is 91 a prime number?",
    "Give a synonym of 'brave'.",
)


def image(name: str) -> Image:
    return Image(path=f"{name}.png", sha256=f"{name:0<64}")


def asked(text: str, *images: Image, **rest: object) -> Prompt:
    return Prompt.of((Turn(role="user", text="<image>\n" * len(images) + text, images=images),), **rest)


def written(path: Path, *rows: object) -> Path:
    path.write_bytes(b"".join(row.to_line() for row in rows))
    return path


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Eight questions about images, alike but for a word, and eight of language that have little in common."""
    vision = [asked(f"What colour is the {shape} in the picture?", image(shape)) for shape in SHAPES]
    return written(tmp_path / "prompts.jsonl", *vision, *(asked(topic) for topic in TOPICS))


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    assert main(["analyse", "diversity", *map(str, arguments), "--embedder", "ngrams", "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["analyse", "diversity", *map(str, arguments)]) == 2
    return capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------- the command


def test_questions_about_images_are_told_to_be_more_alike(prompts, tmp_path, capsys):
    found = told(capsys, prompts, "--out", tmp_path / "out")
    by = {one["name"]: one for one in found["settings"]}
    assert {name: (one["n"], one["possible"], one["questions"]) for name, one in by.items()} == {
        "vision-vision": (28, 28, 8),
        "language-language": (28, 28, 8),
        "vision-language": (64, 64, 16),
    }
    assert by["vision-vision"]["mean"] > 0.7 > 0.3 > by["language-language"]["mean"] > 0
    assert all(sum(one["histogram"]) == one["n"] and len(one["histogram"]) == 100 for one in by.values())
    (first, *_) = found["comparisons"]
    assert (first["first"], first["second"]) == ("vision-vision", "language-language")
    assert first["low"] > 0.4 and first["p"] < 0.001 and first["p_pairs"] < 0.001 and first["z"] > 10
    assert json.loads((tmp_path / "out/diversity.json").read_text()) == {
        key: value for key, value in found.items() if key != "event"
    }
    page = (tmp_path / "out/diversity.html").read_text(encoding="utf-8")
    assert page.index("do not compare these numbers with the paper") < page.index("<svg") < page.index("<table")
    assert re.search(r"vision-vision, mean 0\.\d{3}", page)


def test_the_first_line_names_the_embedder_and_short_draws_are_told(prompts, capsys):
    assert main(["analyse", "diversity", str(prompts), "--embedder", "ngrams"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Embedder: word and letter n-grams. MLAN's is another: do not compare these numbers with")
    assert "vision-vision: 28 pairs are all there are; 10,000 were wanted." in out
    assert "***" in out and "Embedded: 16 different texts; the questions alone" in out


def test_pairs_follow_from_the_seed_whatever_the_order_of_rows_and_files(prompts, tmp_path, capsys):
    lines = prompts.read_bytes().splitlines(keepends=True)
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines[9:][::-1]))
    (tmp_path / "b.jsonl").write_bytes(b"".join(lines[:9][::-1]))
    whole = told(capsys, prompts, "--pairs", 20)
    parted = told(capsys, tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--pairs", 20)
    assert [one["n"] for one in whole["settings"]] == [20, 20, 20]
    assert whole["settings"] == parted["settings"] and whole["comparisons"] == parted["comparisons"]
    other = told(capsys, prompts, "--pairs", 20, "--seed", 1)
    assert other["settings"][0]["histogram"] != whole["settings"][0]["histogram"]


def test_language_alone_has_one_setting_and_no_test(tmp_path, capsys):
    file = written(tmp_path / "text.jsonl", *(asked(topic) for topic in TOPICS))
    found = told(capsys, file)
    assert [one["name"] for one in found["settings"]] == ["language-language"] and found["comparisons"] == []
    main(["analyse", "diversity", str(file), "--embedder", "ngrams"])
    assert "vision-vision: no pair of two different questions." in capsys.readouterr().out


def test_what_makes_no_pair_or_is_no_file_is_refused(tmp_path, capsys):
    file = written(tmp_path / "one.jsonl", asked(TOPICS[0]), asked(TOPICS[0]))
    assert "2 question(s) make no pair of two different ones" in refused(capsys, file, "--embedder", "ngrams")
    assert "missing.jsonl" in refused(capsys, tmp_path / "missing.jsonl")
    assert "--pairs: 0; expected 1 or more" in refused(capsys, file, "--pairs", "0")
    file.write_text('{"schema":"prompt/1","id":"0","turns":[]}\n{"schema":"nothing/1"}\n')
    err = refused(capsys, file, "--embedder", "ngrams")
    assert "one.jsonl:1: " in err and "one.jsonl:2: schema: 'nothing/1' is none of" in err


# ------------------------------------------------------------------------------------------------------ rows to texts


def test_rows_of_a_mix_are_embedded_without_instruction_passage_and_options(tmp_path):
    passage = "Peru has rivers.\n\nThe Ucayali is one."
    short = asked("Name one.", meta={"question": "Name a river.", "context": passage, "answer": "Ucayali"})
    choice = asked(
        "Which is it?\nA. tin\nB. lead",
        image("metal"),
        reference="B",
        meta={"question": "Which is the heaviest?", "choices": ["tin", "lead"], "answer_index": 1, "answer": "lead"},
    )
    rows = []
    for instruction in (True, False):
        for prompt, kind in ((short, "short_answer"), (choice, "multiple_choice")):
            made = as_instruction(prompt, kind, Templates(instruction=instruction), seed=0, copy=0)
            meta = {"row": prompt.id, "type": kind, "instruction": made.instruction}
            meta |= {"choices": ["tin", "lead"]} if kind == "multiple_choice" else {}
            rows.append(Example(id="e", prompt=made.prompt, completion=made.target, source="instruct", meta=meta))
    file = written(tmp_path / "examples.jsonl", *rows)
    assert [(q.item, q.text, q.vision) for q in read_questions(file, "question")] == [
        (short.id, "Name a river.", False),
        (choice.id, "Which is the heaviest?", True),
    ] * 2
    whole = [q.text for q in read_questions(file, "turn")]
    assert whole[0].startswith(f"{passage}\n\nName a river.\n") and whole[0].splitlines()[-1] in SHORT_ANSWER
    assert whole[3] == "Which is the heaviest?\nA. tin\nB. lead"
    assert [q.text for q in read_questions(written(tmp_path / "p.jsonl", choice), "question")] == [
        "Which is the heaviest?"
    ]


def test_an_instruction_that_is_not_there_is_told(tmp_path, capsys):
    meta = {"row": "r", "type": "short_answer", "instruction": 3}
    file = written(
        tmp_path / "e.jsonl", Example(id="e", prompt=asked("Who?"), completion="He.", source="instruct", meta=meta)
    )
    assert "e.jsonl:1: meta.instruction: 3 is no wording" in refused(capsys, file, "--embedder", "ngrams")
    assert [q.text for q in read_questions(file, "turn")] == ["Who?"]


def test_conversations_pairs_and_llavas_rows_are_read(tmp_path):
    turns = tuple(Turn(role=role, text=text) for role, text in (("user", "One?"), ("assistant", "1"), ("user", "Two?")))
    talk = Conversation(turns=(*turns, Turn(role="assistant", text="2")))
    silent = Conversation(
        turns=(Turn(role="user", text="<image>", images=(image("a"),)), Turn(role="assistant", text="A."))
    )
    mixed = written(tmp_path / "mixed.jsonl", talk, silent, asked("Three?", image("b")))
    assert [(q.text, q.vision) for q in read_questions(mixed, "question")] == [
        ("Two?", False),
        ("", True),
        ("Three?", True),
    ]
    llava = [
        {
            "id": "1",
            "image": "a.png",
            "conversations": [{"from": "human", "value": "<image>\nWhere?"}, {"from": "gpt", "value": "Here."}],
        },
        {"id": "2", "conversations": [{"from": "human", "value": "When?"}, {"from": "gpt", "value": "Now."}]},
    ]
    (tmp_path / "llava.json").write_text(json.dumps(llava))
    assert [(q.text, q.vision) for q in read_questions(tmp_path / "llava.json", "question")] == [
        ("Where?", True),
        ("When?", False),
    ]


# -------------------------------------------------------------------------------------------------------------- pairs


def rows(items: list[int]) -> Rows:
    made = Rows()
    made.items.extend(items)
    made.texts.extend(range(100, 100 + len(items)))
    return made


def test_no_pair_is_drawn_twice_or_of_one_item():
    vision, language = rows([1, 1, 1, 2, 3, 3]), rows([7, 8])
    every = {pairs.name: pairs for pairs in draw_pairs(vision, language, pairs=100, seed=0)}
    # 15 couples of 6 rows, less 3 of the first item and 1 of the third
    assert {name: pairs.possible for name, pairs in every.items()} == {
        "vision-vision": 11, "language-language": 1, "vision-language": 12,
    }  # fmt: skip
    texts = {tuple(pair) for pair in every["vision-vision"].texts.tolist()}
    assert len(texts) == 11 and all(a != b for a, b in every["vision-vision"].items.tolist())
    some = next(draw_pairs(vision, language, pairs=5, seed=0))
    assert len({tuple(pair) for pair in some.texts.tolist()} & texts) == 5


def test_every_pair_is_drawn_as_often():
    vision = rows([1, 1, 2, 3])
    counts = dict.fromkeys(((100, 102), (100, 103), (101, 102), (101, 103), (102, 103)), 0)
    for seed in range(1000):
        for pair in next(draw_pairs(vision, Rows(), pairs=2, seed=seed)).texts.tolist():
            counts[tuple(pair)] += 1
    assert sum(counts.values()) == 2000 and all(abs(n - 400) < 4 * math.sqrt(400 * 0.6) for n in counts.values())


def test_standard_errors_by_hand():
    # (1,2) and (1,3) share an item, (4,5) stands alone: 9 + 4 + 1 + 2 x 3 x 2
    items = np.array([[1, 2], [1, 3], [4, 5]], dtype=np.uint64)
    assert spread(items, np.array([3.0, 2.0, -1.0])) == pytest.approx(math.sqrt(9 + 4 + 1 + 12))
    # the same two items twice are one observation, whichever stands first: (3 + 2)^2
    twice = np.array([[1, 2], [2, 1]], dtype=np.uint64)
    assert spread(twice, np.array([3.0, 2.0])) == pytest.approx(5)


def test_intervals_over_questions_hold_where_the_papers_test_does_not():
    rng = np.random.default_rng(0)
    held = believed = 0
    items = np.array([(i, k) for i in range(40) for k in range(i)], dtype=np.uint64)
    for _ in range(200):  # questions of one kind twice: the true difference is 0
        sets = []
        for first in (0, 40):
            level = rng.normal(size=40)
            cosines = np.array([level[i] + level[k] for i, k in items.tolist()]) + rng.normal(size=len(items)) / 2
            sets += [Pairs(name="", possible=780, items=items + np.uint64(first), texts=items), cosines]
        found = compare(*sets)
        held += found.low < 0 < found.high
        believed += found.p_pairs > 0.05
    assert 0.90 <= held / 200 <= 0.985
    assert believed / 200 < 0.5


# ---------------------------------------------------------------------------------------------------------- embedders


def test_ngrams_are_of_length_one_and_know_equal_from_unlike():
    vectors = NGrams().embed(
        ["What colour is  the RING?", "what colour is the ring?", "What colour is the star?", "Ōū 漢!"]
    )
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1) and np.array_equal(vectors[0], vectors[1])
    alike, unlike = float(vectors[0] @ vectors[2]), float(vectors[0] @ vectors[3])
    assert alike > 0.5 and abs(unlike) < 0.15
    assert NGrams().embed(["?"]).shape == (1, 1024) and np.isfinite(NGrams().embed(["?", "a"])).all()


@pytest.mark.skipif(find_spec("sentence_transformers") is not None, reason="sentence-transformers is installed")
def test_without_the_package_ngrams_are_taken_and_said_and_a_named_model_is_refused(prompts, tmp_path, capsys):
    assert main(["analyse", "diversity", str(prompts)]) == 0
    first = " ".join(capsys.readouterr().out.split("\n\n")[0].split())
    assert "n-grams (sentence-transformers is not installed: pip install 'mmalign[diversity]'). MLAN's is" in first
    assert "not installed" in refused(capsys, prompts, "--embedder", "all-MiniLM-L6-v2")
    torch_free = "import sys; from align.cli import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", torch_free, "analyse", "diversity", str(prompts)], cwd=tmp_path, check=True)


@pytest.mark.skipif(find_spec("sentence_transformers") is None, reason="the extra `diversity` is not installed")
def test_a_sentence_transformer_from_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = sorted({word for text in TOPICS for word in re.findall(r"\w+", text.lower())})
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    BertTokenizerFast(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "bert")
    config = BertConfig(
        vocab_size=len(words) + 5, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(tmp_path / "bert")
    folder = tmp_path / "tiny"
    SentenceTransformer(str(tmp_path / "bert")).save(str(folder))
    file = written(tmp_path / "two.jsonl", asked(TOPICS[0]), asked(TOPICS[1]))
    assert main(["analyse", "diversity", str(file), "--json", "--embedder", str(folder)]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(found["embedder"]["sha256"]) == 64 and not found["embedder"]["papers"]
    a, b = SentenceTransformer(str(folder)).encode(list(TOPICS[:2]))
    cosine = float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
    assert [one["mean"] for one in found["settings"]] == [pytest.approx(cosine, abs=1e-5)]
    (tmp_path / "empty").mkdir()
    assert "is no model of sentence-transformers" in refused(capsys, file, "--embedder", tmp_path / "empty")
    assert "not in the cache and HF_HUB_OFFLINE is set" in refused(capsys, file, "--embedder", "all-MiniLM-L6-v2")
    assert main(["analyse", "diversity", str(file)]) == 0
    assert "n-grams (sentence-transformers/all-MiniLM-L6-v2 is not in the cache" in capsys.readouterr().out
