"""What is wrong with a preference data set: pure functions from records to JSON, and the JSON in words.

    collect.py      records -> columns (what is held in memory)      scored.py      completions with their scores
    sampling.py     intervals over prompts                           report.py      all of it together
    size.py         counts, duplicates, equal texts                  margins.py     margins, ties, saturation
    lengths.py      length bias, drift                               annotator.py   place, correlation of attributes
    polarity.py     yes and no                                       vocabulary.py  words that tell
    sets.py         evaluation sets, to look for in the data         thresholds.py  limits that fail a build
    words.py        findings, worst news first

The page is `align/report/doctor.py`, the command `align/commands/doctor.py`, the search `align/overlap.py`.
"""

from align.doctor.collect import Collector as Collector
from align.doctor.report import examine as examine
from align.doctor.words import verdict_text as verdict_text
