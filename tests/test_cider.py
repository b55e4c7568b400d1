"""CIDEr-D and its words are those of the official COCO evaluation, which `tests/tools/golden_captions.py` asked."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from align.benchmarks.cider import cider_d, tokens
from annotate.errors import UserError

GOLDEN = json.loads((Path(__file__).parent / "benchmark_golden" / "captions.json").read_text(encoding="utf-8"))


def test_words_are_lowercase_and_without_punctuation() -> None:
    assert tokens("A dog's bowl, \"empty\"; it won't eat.") == [
        "a",
        "dog",
        "'s",
        "bowl",
        "empty",
        "it",
        "wo",
        "n't",
        "eat",
    ]
    # The official list has brackets in capitals and its words are lowercase: brackets stay, and so does `!!`.
    assert tokens("(Two) black/white T-shirts!!") == ["-lrb-", "two", "-rrb-", "black/white", "t-shirts", "!!"]


@pytest.mark.parametrize("row", GOLDEN["tokens"], ids=lambda row: row["caption"][:20])
def test_words_are_those_of_the_official_tokenizer(row: dict[str, Any]) -> None:
    assert tokens(row["caption"]) == row["tokens"]


@pytest.mark.parametrize("captions", GOLDEN["sets"], ids=lambda captions: f"{len(captions['values'])} images")
def test_values_are_those_of_the_official_scorer(captions: dict[str, Any]) -> None:
    values = cider_d(captions["candidates"], captions["references"])
    assert values == pytest.approx(captions["values"], abs=1e-9)
    assert sum(values.values()) / len(values) == pytest.approx(captions["mean"], abs=1e-9)


def test_a_reference_repeated_word_for_word_scores_ten() -> None:
    references = {"a": ["A dog runs on the beach."], "b": ["Two red buses wait here."]}
    assert cider_d({image: texts[0] for image, texts in references.items()}, references) == pytest.approx(
        {"a": 10.0, "b": 10.0}
    )


def test_a_word_repeated_gains_nothing() -> None:
    """Clipping: of `dog dog dog` one counts, and the two others make the vector longer."""
    references = {"a": ["a dog"], "b": ["a cat"]}
    once = cider_d({"a": "dog", "b": "cat"}, references)["a"]
    often = cider_d({"a": "dog dog dog", "b": "cat"}, references)["a"]
    assert once == pytest.approx(10 / 4 * math.exp(-1 / 72))  # one word of one, none of the longer phrases
    assert 0 < often < once / 2


def test_other_images_than_the_references_are_refused() -> None:
    references = {"1": ["a dog"], "2": ["a cat"]}
    with pytest.raises(UserError, match=r"1 images have references but no caption to score: 2;"):
        cider_d({"1": "a dog"}, references)
    with pytest.raises(UserError, match=r"1 images have a caption but no references: 3;"):
        cider_d({"1": "a dog", "2": "a cat", "3": "a bus"}, references)
    with pytest.raises(UserError, match=r"1 images have an empty list of references: 2;"):
        cider_d({"1": "a dog", "2": "a cat"}, {"1": ["a dog"], "2": []})


def test_random_sets_agree_with_pycocoevalcap_itself() -> None:
    scorer_module = pytest.importorskip(
        "pycocoevalcap.cider.cider_scorer", reason="pycocoevalcap is not installed; its figures are in benchmark_golden"
    )
    rng = random.Random(7)
    words = "a the dog cat bus on in red two people ride sits table pizza near".split()

    def caption() -> str:
        return " ".join(rng.choices(words, k=rng.randint(0, 14)))

    for n_images in (1, 5, 200):
        candidates = {str(i): caption() for i in range(n_images)}
        references = {image: [caption() for _ in range(rng.randint(1, 6))] for image in candidates}
        scorer = scorer_module.CiderScorer()
        for image, text in candidates.items():
            scorer += (text, references[image])
        _, official = scorer.compute_score()
        assert list(cider_d(candidates, references).values()) == pytest.approx(list(official), abs=1e-9)
