r"""COCO's or Flickr30k's references and images as a benchmark file that `align evaluate` asks.

    python data/prepare_captions.py coco_captions downloads/dataset_coco.json downloads/val2014 \
        --image-root downloads --out data/bench

writes `data/bench/coco_captions.jsonl`, for a recipe with

    prompts:  {image_root: downloads, …}
    evaluate: {folder: data/bench, suites: [coco_captions]}

References are COCO's `captions_*.json` or Karpathy's `dataset_coco.json`, `dataset_flickr30k.json`, of which the images
of the split `test` are taken. Their captions are CC BY 4.0 (COCO) and for research (Flickr30k); the images are Flickr
users'. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from align.benchmarks.captions import caption_rows
from align.benchmarks.rows import write_rows
from annotate.errors import UserError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=("coco_captions", "flickr30k"))
    parser.add_argument("references", type=Path, help="captions_*.json, dataset_coco.json or dataset_flickr30k.json")
    parser.add_argument("images", type=Path, help="folder of the images")
    parser.add_argument("--image-root", type=Path, help="the recipe's `prompts.image_root` (default: that folder)")
    parser.add_argument("--out", type=Path, required=True, help="the recipe's `evaluate.folder`")
    given = parser.parse_args()
    try:
        rows = caption_rows(given.suite, given.references, given.images, given.image_root or given.images)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / f"{given.suite}.jsonl"
    write_rows(file, rows)
    n = sum(len(row.questions[0].truth["references"]) for row in rows if row.questions[0].truth)
    print(f"{file}: {len(rows):,} images, {n:,} references")
    return 0


if __name__ == "__main__":
    sys.exit(main())
