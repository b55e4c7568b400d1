"""Makes `tests/benchmark_golden/captions.json`: what the official COCO caption evaluation says about captions of ours.

The words are those of its PTBTokenizer (Stanford CoreNLP 3.4.1, a Java program), the values those of its CiderScorer
over these words. Needs Java and an environment of its own, and is run by hand:

    pip install pycocoevalcap==1.2 numpy && python tests/tools/golden_captions.py
"""

import json
import random
import sys
from importlib.metadata import version
from pathlib import Path

from pycocoevalcap.cider.cider_scorer import CiderScorer
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

GOLDEN = Path(__file__).parent.parent / "benchmark_golden" / "captions.json"

SENTENCES = """\
A dog runs.
A man doesn't know; he can't, won't & cannot stop.
It's a dog's ball, the boys' bikes, I'd we'll they've you're I'm.
She ain't gonna ride, wanna gotta lemme gimme; 'tis and 'twas so.
A black/white cat (sitting) on [a] {mat}.
Price is $5.00 or 50% off, 10,000 people at 10:30 a.m. and 3 p.m.
U.S. flag on St. Mary's by Mr. Smith and Dr. Jones vs. others etc.
Two-way street, black-and-white t-shirt -- dash - hyphen – en — em
"Quoted text" and 'single quotes' and ``ticks'' and “curly” ‘curly’ it’s don’t
The colour of the grey theatre centre
Wow!!! Really?! Well... ok.. hmm .... end…
A 1/2 eaten pizza, 3.5 oz, 7-Eleven, 4x4, 3D, 2nd, 90's, 1980s '80s
Café naïve jalapeño ½ cup, £5 €5 ¢5
no space,after comma.And period;semi:colon
AT&T, H&M, R&B, M&M's, rock&roll
trailing space   double  space\ttab and\u00a0another kind\u200bof space
rock 'n' roll, rock n' roll, o'clock, O'Brien, ma'am, y'all, jack-o'-lantern
6 ft. tall, No. 5, 5'10", 12" sub, mt. Rainier, Washington D.C. street
He said: "stop!" then left
man in t.v. room w/ dog w/o leash and/or he/she
the 1990's U.K.'s cats'
1. one 2. two
She's riding her horse at Inc. co. ltd.
the dog.The cat; the dog.A cat dog.5 5.dog
vitamin b. and plan a. The end
mother-in-law's anti -like pre-/post- -5 +5
they &apos;ve been &amp; gone &quot;home&quot;
A pizza\N{SLICE OF PIZZA} with \N{SLICE OF PIZZA}\N{SLICE OF PIZZA}.
No. The sun. He sat. Ed.
etc. The Blvd. is here, Jan. 5 and Jan. The
George W. Bush drinks vitamin b.
""".splitlines()

SUBJECTS = "a man,two dogs,the woman's cat,a red double-decker bus,a group of people,an old T.V. set,a girl".split(",")
DOING = "riding,sitting on,standing next to,looking at,eating,isn't near,jumping over".split(",")
THINGS = "a wave,the street,a wooden table,a black/white horse,the beach,a slice of pizza,a St. Mary's bench".split(",")
ENDS = ["", ".", " in the sun.", ", outside!", " with a dog", " and a dog and a dog", " (close up)", "..."]


def a_caption(rng: random.Random) -> str:
    caption = f"{rng.choice(SUBJECTS)} {rng.choice(DOING)} {rng.choice(THINGS)}{rng.choice(ENDS)}"
    return caption.capitalize() if rng.random() < 0.5 else caption


def a_set(n_images: int, seed: int) -> dict[str, dict[str, list[str]]]:
    rng = random.Random(seed)
    images = [f"{i:03}.jpg" for i in range(n_images)]
    references = {image: [a_caption(rng) for _ in range(rng.randint(1, 5))] for image in images}
    candidates = {image: [a_caption(rng)] for image in images}
    # Odd ones: a copy of a reference, nothing, punctuation alone, one word, words unseen, a caption much too long.
    odd = [
        references[images[0]][0],
        "",
        ".",
        "dog",
        "zebras xylophones quickly",
        " and ".join(references[images[-1]] * 3),
    ]
    for image, caption in zip(images[2:], odd, strict=False):
        candidates[image] = [caption]
    return {"candidates": candidates, "references": references}


def officially(captions: dict[str, list[str]]) -> dict[str, list[str]]:
    rows = {image: [{"caption": caption} for caption in texts] for image, texts in captions.items()}
    return PTBTokenizer().tokenize(rows)


def scored(captions: dict[str, dict[str, list[str]]]) -> dict[str, object]:
    candidates, references = officially(captions["candidates"]), officially(captions["references"])
    scorer = CiderScorer()
    for image in references:
        scorer += (candidates[image][0], references[image])
    mean, values = scorer.compute_score()
    return {
        "candidates": {image: texts[0] for image, texts in captions["candidates"].items()},
        "references": captions["references"],
        "values": dict(zip(references, map(float, values), strict=True)),
        "mean": float(mean),
    }


def main() -> int:
    split = officially({f"{i:03}": [sentence] for i, sentence in enumerate(SENTENCES)})
    golden = {
        "made_with": f"pycocoevalcap {version('pycocoevalcap')}, numpy {version('numpy')}",
        "tokens": [
            {"caption": s, "tokens": line[0].split(" ")} for s, line in zip(SENTENCES, split.values(), strict=True)
        ],
        "sets": [scored(a_set(n, seed)) for n, seed in ((1, 1), (2, 2), (30, 3))],
    }
    text = json.dumps(golden, ensure_ascii=False, indent=1)
    GOLDEN.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
