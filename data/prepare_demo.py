"""Writes the demo world: training rows of the base, alignment prompts, dev and test benchmarks, images.

    python data/prepare_demo.py --out data/demo --seed 0 [--small] [--no-training]

Takes nothing in but a seed; the digits ship inside scikit-learn. Gives out, under --out:

    images/{train,prompts,dev,test}/*.png   48x48
    language.jsonl    Conversation rows (align/train/rows.py): text dialogues, full answers, the stated form followed
    connect.jsonl     Patches rows: which words each of the 3x3 cells of an image stands for
    tune.jsonl        Conversation rows: four questions per image, 70% answered with one word; some text rows
    prompts.jsonl     Prompt rows: half about images (sources "digits", "charts"), half text (source "text")
    bench/{dev,test}/{text_instructions,open_visual,pope,choice}.jsonl     bench rows, see below
    prepared.json     what it was made from; written last, and a second call that finds it current does nothing

With --no-training the rows of the base are left out (a second instead of twenty); all else is the same bytes.

**Answer key** (`meta.answer_key` of a prompt; read by the `rules` annotator):

    {"form": "sentence" | "word" | "list" | "any",
     "claims": [{"vocabulary": ["red", "blue", ...], "truth": ["red"], "given": [], "ordered": false}]}

A claim is a slot of the answer. Words of `vocabulary` found in a completion (case ignored, whole words, list numbers
like "2." left out) are what it claims; `given` words stand in the question and count neither way. All of `truth`
must be claimed (none where it is empty: such a slot only forbids), in that order where `ordered`; any other vocabulary
word is a false claim. "any": no form was asked.

**Bench row**: `prompt` is the first turn; `questions` hold one entry per turn (two for text_instructions; the model's
own first answer stays in context). `accepted` maps each form to the one true answer in that form, `form` is the
stated one (null: none stated), `options` of a choice item are the texts whose likelihood is compared, `answer` the
true one, `polarity` positive or negative for yes/no questions, `noise_image` an irrelevant picture:

    {"id": ..., "suite": ..., "prompt": {prompt/1}, "noise_image": {path, sha256} | null, "questions":
     [{"text": ..., "kind": ..., "form": ..., "answer": ..., "accepted": {...}, "polarity": ..., "options": [...]}]}

No context (word list, scene) and no image of a benchmark occurs in a training file or among the prompts.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(Path(__file__).resolve().parent), str(ROOT)]

from demo_scenes import Picture, ask_many, ask_weighted, draw_chart, draw_digits, with_options  # noqa: E402
from demo_text import ASK_FORM, Question, dialogue, pick_form, repeat  # noqa: E402
from PIL import Image as PIL  # noqa: E402

from annotate.records import Image, Prompt, Turn, content_id  # noqa: E402


@dataclass(frozen=True)
class Sizes:
    """How many rows of each kind; --small is for tests."""

    language: int = 24_000
    repeat: int = 2_400
    connect: int = 6_000
    tune_images: int = 9_000
    tune_text: int = 2_400
    prompts_image: int = 400
    prompts_text: int = 400
    dev: dict[str, int] = field(
        default_factory=lambda: {"text_instructions": 240, "open_visual": 160, "pope": 240, "choice": 160}
    )
    test: dict[str, int] = field(
        default_factory=lambda: {"text_instructions": 320, "open_visual": 240, "pope": 300, "choice": 240}
    )


SMALL = Sizes(
    language=240,
    repeat=40,
    connect=60,
    tune_images=60,
    tune_text=12,
    prompts_image=16,
    prompts_text=16,
    dev=dict.fromkeys(("text_instructions", "open_visual", "pope", "choice"), 12),
    test=dict.fromkeys(("text_instructions", "open_visual", "pope", "choice"), 16),
)


def home(context: str) -> str:
    """The one split that may ask about this context; half of all are for training."""
    return ("dev", "test", "prompts", "train", "train", "train")[hashlib.sha256(context.encode()).digest()[0] % 6]


class Balance:
    """Lets yes and no be true in turn, so that neither can be learned as the better guess."""

    def __init__(self) -> None:
        self.wanted = "positive"

    def admits(self, question: Question) -> bool:
        if question.polarity is None:
            return True
        if question.polarity != self.wanted:
            return False
        self.wanted = "negative" if self.wanted == "positive" else "positive"
        return True


class World:
    """Draws contexts and images that no other split has, and writes files."""

    def __init__(self, out: Path, seed: int) -> None:
        self.out, self.seed = out, seed
        self.contexts: set[str] = set()
        self.hashes: set[str] = set()

    def rng(self, name: str) -> Random:
        """One stream per file: adding a row to one file changes no other."""
        return Random(f"{self.seed}/{name}")

    def dialogue(self, rng: Random, n_turns: int, split: str) -> tuple[str, list[tuple[Question, str]]]:
        """A dialogue about a context of that split; outside training no context comes twice."""
        while True:
            context, turns = dialogue(rng, n_turns)
            if home(context.text) == split and context.text not in self.contexts:
                if split != "train":
                    self.contexts.add(context.text)
                return context.text, turns

    def draw(self, rng: Random, split: str, folder: str, *, n: int | None = None) -> tuple[Image, Picture]:
        """A new picture, written: n digits, or a chart where n is None."""
        while True:
            picture = draw_chart(rng, split) if n is None else draw_digits(rng, n, split)
            buffer = io.BytesIO()
            PIL.fromarray(picture.pixels).save(buffer, "PNG", compress_level=1)
            sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
            if sha256 not in self.hashes:
                self.hashes.add(sha256)
                path = Path(folder) / f"{sha256[:16]}.png"
                (self.out / "images" / path).write_bytes(buffer.getvalue())
                return Image(path=path.as_posix(), sha256=sha256), picture

    def write(self, name: str, rows: Iterator[dict[str, Any]]) -> int:
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return len(lines)


def turn(role: str, text: str, *images: Image) -> dict[str, Any]:
    return {"role": role, "text": text, "images": [{"path": i.path, "sha256": i.sha256} for i in images]}


def conversation(turns: list[tuple[str, str]], source: str, image: Image | None = None, level: int = 0) -> Any:
    """A Conversation row; the image stands before the first question."""
    out = []
    for i, (question, answer) in enumerate(turns):
        shown = [image] if image and i == 0 else []
        out += [turn("user", ("<image>\n" if shown else "") + question, *shown), turn("assistant", answer)]
    return {"schema": "conversation/1", "turns": out, "source": source, "level": level}


def language_rows(world: World, n: int, n_repeat: int) -> Iterator[dict[str, Any]]:
    """Like Vicuna's dialogues: the stated form is followed; where none is stated the answer is a sentence."""
    rng = world.rng("language")
    for _ in range(n_repeat):
        yield conversation([repeat(rng)], "repeat", level=0)
    for _ in range(n):
        context, turns = world.dialogue(rng, rng.randint(1, 3), "train")
        said = []
        for i, (question, form) in enumerate(turns):
            stated = rng.random() < 0.85 or question.kind.startswith("again_")
            text = f"{question.text} {ASK_FORM[form]}" if stated else question.text
            said.append((f"{context} {text}" if i == 0 else text, question.accepted[form if stated else "sentence"]))
        yield conversation(said, "language", level=1)


def connect_rows(world: World, n: int) -> Iterator[dict[str, Any]]:
    """Images with what stands in each cell."""
    rng = world.rng("connect")
    for _ in range(n):
        image, picture = world.draw(rng, "train", "train", n=rng.randint(3, 6) if rng.random() < 0.7 else None)
        words = [list(cell) if cell else [] for cell in picture.cells]
        yield {"schema": "patches/1", "image": {"path": image.path, "sha256": image.sha256}, "words": words}


def short_mostly(question: Question, rng: Random) -> str:
    """Visual instruction data is mostly one-word VQA (LLaVA-1.5 mixes it in for two thirds of its rows)."""
    short = "word" in question.accepted and rng.random() < 0.7
    return question.accepted["word" if short else "sentence"]


def tune_rows(world: World, n_images: int, n_text: int) -> Iterator[dict[str, Any]]:
    """Two conversations of four questions on every image; text rows state no form and are answered alike."""
    rng = world.rng("tune")
    for i in range(n_images):
        n = None if rng.random() < 0.35 else 1 + i % 4
        image, picture = world.draw(rng, "train", "train", n=n)
        for _ in range(2):
            asked = [
                with_options(q, rng) if q.polarity is None and q.kind in OPTION_KINDS and rng.random() < 0.15 else q
                for q in ask_many(picture.context, rng, 4)
            ]
            said = [(q.text, short_mostly(q, rng)) for q in asked]
            yield conversation(said, "charts" if n is None else "digits", image, picture.level)
    for _ in range(n_text):
        context, turns = world.dialogue(rng, rng.randint(1, 2), "train")
        asked = [q for q, _ in turns if not q.kind.startswith("again_")]
        said = [(f"{context} {q.text}" if i == 0 else q.text, short_mostly(q, rng)) for i, q in enumerate(asked)]
        yield conversation(said, "text", level=0)


OPTION_KINDS = ("colour", "which", "tallest", "shortest", "place")


def prompt_rows(world: World, n_image: int, n_text: int) -> Iterator[dict[str, Any]]:
    """What is answered for alignment; yes is true as often as no. 30% of the image prompts state no form."""
    rng, balance = world.rng("prompts"), {source: Balance() for source in ("digits", "charts", "text")}
    for i in range(n_image):
        n = None if i % 3 == 2 else 1 + i % 4
        image, picture = world.draw(rng, "train", "prompts", n=n)
        question = ask_weighted(picture.context, rng)
        source = "charts" if n is None else "digits"
        while not balance[source].admits(question):
            question = picture.context.ask(rng, question.kind)
        form = pick_form(question, rng) if rng.random() < 0.7 else "any"
        text = "<image>\n" + (question.text if form == "any" else f"{question.text} {ASK_FORM[form]}")
        yield prompt_json([Turn(role="user", text=text, images=(image,))], question, form, source, f"{source}-{i}")
    for i in range(n_text):
        context, turns = world.dialogue(rng, 1 + i % 2, "prompts")
        yes_no = turns[-1][0].polarity is not None
        while (turns[-1][0].polarity is not None) != yes_no or not balance["text"].admits(turns[-1][0]):
            context, turns = world.dialogue(rng, 1 + i % 2, "prompts")
        said: list[Turn] = []
        for j, (question, form) in enumerate(turns):
            text = f"{question.text} {ASK_FORM[form]}"
            said.append(Turn(role="user", text=f"{context} {text}" if j == 0 else text))
            said.append(Turn(role="assistant", text=question.accepted[form]))
        yield prompt_json(said[:-1], *turns[-1], "text", f"text-{i}")


def prompt_json(turns: list[Turn], question: Question, form: str, source: str, source_id: str) -> dict[str, Any]:
    meta: dict[str, Any] = {"kind": question.kind, "answer_key": question.key(form)}
    if question.polarity:
        meta["polarity"] = question.polarity
    reference = question.accepted["sentence" if form == "any" else form]
    return Prompt.of(tuple(turns), source=source, source_id=source_id, reference=reference, meta=meta).to_json()


# ------------------------------------------------------------------------------------------------------- benchmarks


def bench_question(question: Question, form: str | None, text: str) -> dict[str, Any]:
    return {
        "text": text,
        "kind": question.kind,
        "form": form,
        "answer": question.accepted.get("word") or question.accepted["sentence"],
        "accepted": question.accepted,
        "polarity": question.polarity,
        "options": list(question.options),
        "answer_key": question.key(form or "any"),
    }


def bench_row(suite: str, turn: Turn, questions: list[dict[str, Any]], noise: Image | None = None) -> dict[str, Any]:
    prompt = Prompt.of((turn,), source=suite)
    return {
        "id": content_id([suite, prompt.id, [q["text"] for q in questions]]),
        "suite": suite,
        "prompt": prompt.to_json(),
        "noise_image": {"path": noise.path, "sha256": noise.sha256} if noise else None,
        "questions": questions,
    }


def text_bench(world: World, split: str, n: int) -> Iterator[dict[str, Any]]:
    rng = world.rng(f"{split}/text_instructions")
    for i in range(n):
        context, turns = world.dialogue(rng, 2, split)
        noise, _ = world.draw(rng, split, split, n=1 + i % 4 if i % 3 else None)
        questions = []
        for j, (q, form) in enumerate(turns):
            text = f"{q.text} {ASK_FORM[form]}"
            questions.append(bench_question(q, form, f"{context} {text}" if j == 0 else text))
        yield bench_row("text_instructions", Turn(role="user", text=questions[0]["text"]), questions, noise)


def visual_bench(world: World, split: str, suite: str, n: int) -> Iterator[dict[str, Any]]:
    """pope: is there ..., half yes. choice: colour or digit, four options. open_visual: all other kinds."""
    rng = world.rng(f"{split}/{suite}")
    for i in range(n):
        chart = suite == "open_visual" and i % 3 == 2
        image, picture = world.draw(rng, split, split, n=None if chart else 1 + (i // 2) % 4)
        question, form = visual_question(suite, picture, i, rng)
        text = question.text if form is None else f"{question.text} {ASK_FORM[form]}"
        row = Turn(role="user", text=f"<image>\n{text}", images=(image,))
        yield bench_row(suite, row, [bench_question(question, form, text)])


def visual_question(suite: str, picture: Picture, i: int, rng: Random) -> tuple[Question, str | None]:
    if suite == "pope":
        wanted = ("positive", "negative")[i % 2]
        kind = "exist" if i % 3 else "colour_exist"
        while True:
            question = picture.context.ask(rng, kind)
            if question.polarity == wanted:
                return question, None
    if suite == "choice":
        return with_options(picture.context.ask(rng, ("colour", "which")[i % 2]), rng), None
    while True:
        question = ask_weighted(picture.context, rng)
        if question.polarity is None:
            return question, "word" if rng.random() < 0.3 else "sentence"


def prepare(out: Path, seed: int, sizes: Sizes, *, training: bool = True) -> dict[str, int]:
    """Write everything; returns file -> rows."""
    for folder in ("train", "prompts", "dev", "test"):
        (out / "images" / folder).mkdir(parents=True, exist_ok=True)
    world, counts = World(out, seed), {}
    for split, wanted in (("dev", sizes.dev), ("test", sizes.test)):
        for suite, n in wanted.items():
            rows = text_bench(world, split, n) if suite == "text_instructions" else visual_bench(world, split, suite, n)
            counts[f"bench/{split}/{suite}.jsonl"] = world.write(f"bench/{split}/{suite}.jsonl", rows)
    files = {"prompts.jsonl": prompt_rows(world, sizes.prompts_image, sizes.prompts_text)}
    if training:
        files["language.jsonl"] = language_rows(world, sizes.language, sizes.repeat)
        files["connect.jsonl"] = connect_rows(world, sizes.connect)
        files["tune.jsonl"] = tune_rows(world, sizes.tune_images, sizes.tune_text)
    return counts | {name: world.write(name, rows) for name, rows in files.items()}


def receipt(seed: int, small: bool, training: bool) -> dict[str, Any]:
    """What decides every byte: the options and these scripts."""
    scripts = ("prepare_demo.py", "demo_text.py", "demo_scenes.py")
    digests = {name: hashlib.sha256((ROOT / "data" / name).read_bytes()).hexdigest() for name in scripts}
    return {"seed": seed, "small": small, "training": training, "scripts": digests}


def is_current(path: Path, wanted: dict[str, Any]) -> bool:
    if not path.exists():
        return False
    found = json.loads(path.read_text(encoding="utf-8"))
    return found == wanted or (found.get("training") and found == {**wanted, "training": True})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "data" / "demo")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="a few rows of everything, for tests")
    parser.add_argument("--no-training", action="store_true", help="prompts and benchmarks only")
    args = parser.parse_args()
    path, made_from = args.out / "prepared.json", receipt(args.seed, args.small, not args.no_training)
    if is_current(path, made_from):
        print(f"{args.out} is up to date")
        return
    path.unlink(missing_ok=True)
    sizes = SMALL if args.small else Sizes()
    for name, n in prepare(args.out, args.seed, sizes, training=not args.no_training).items():
        print(f"{n:6d}  {args.out / name}")
    part = path.with_suffix(".part")
    part.write_text(json.dumps(made_from, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    main()
