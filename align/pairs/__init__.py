"""From scores to training sets: pure builders over `Annotated` records, without torch.

from align.pairs import build_preference_pairs
for made in build_preference_pairs(read_records(path, Annotated), Pairs(min_margin=3), seed=0): ...
"""

from align.pairs.build import build_files
from align.pairs.preference import build_preference_pairs
from align.pairs.rejection import build_rejection_examples
from align.pairs.sft import build_teacher_examples
from align.pairs.steerlm import build_steerlm_examples, conditioning

__all__ = [
    "build_files",
    "build_preference_pairs",
    "build_rejection_examples",
    "build_steerlm_examples",
    "build_teacher_examples",
    "conditioning",
]
