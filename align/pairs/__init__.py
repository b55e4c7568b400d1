"""From scores to training sets: pure builders over `Annotated` records, without torch.

    from align.pairs import Pairs, build_preference_pairs
    for made in build_preference_pairs(read_records(path, Annotated), Pairs(min_margin=3), seed=0): ...

For whole files see `align.pairs.build.build_files`, or `align pairs ANNOTATED.jsonl OUTDIR`; for all sets at once
`align.pairs.sets.Maker`; the rules and options are told in docs/pairs.md.
"""

from align.pairs.hindsight import build_hindsight_examples
from align.pairs.preference import build_preference_pairs
from align.pairs.rejection import build_rejection_examples
from align.pairs.sft import build_teacher_examples
from align.pairs.steerlm import build_steerlm_examples, conditioning
from align.settings import Pairs

__all__ = [
    "Pairs",
    "build_hindsight_examples",
    "build_preference_pairs",
    "build_rejection_examples",
    "build_steerlm_examples",
    "build_teacher_examples",
    "conditioning",
]
