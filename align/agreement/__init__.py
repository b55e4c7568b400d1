"""Does the annotator agree: with people, with itself, with another annotator? Pure functions from records to JSON.

    joining.py    which completions of two files are the same ones       human.py    heat map, agreement with people
    verdicts.py   who prefers which of two, and how often two agree       others.py   itself, and another annotator
    report.py     all of it together                                     words.py    the JSON in words

Multi-Modal Preference Alignment, section 5 and Figure 3, correlates the differences of five attributes between the two
responses of 500 LLaVA-RLHF pairs with the human preference: every |r| is below 0.1. The page is
`align/report/agreement.py`, the command `align/commands/agreement.py`.
"""

from align.agreement.joining import Opinion as Opinion
from align.agreement.joining import opinions_in as opinions_in
from align.agreement.report import Collected as Collected
from align.agreement.report import agreement as agreement
from align.agreement.words import agreement_text as agreement_text
