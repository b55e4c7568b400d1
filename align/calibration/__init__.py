"""The calibration card of an annotation run: how far its scores can be trusted.

    card.py         the card itself, of:
    readings.py     annotated prompts as it reads them          figure.py       what a figure is
    scores.py       distributions, length                       position.py     places
    consistency.py  several passes                              checks.py       planted questions
    words.py        the findings in words, worst news first; the card for a terminal

The page is `align/report/calibration.py`, the statistics are `align/reliability.py` and `align/stats.py`.
"""

from align.calibration.card import calibration_card as calibration_card
from align.calibration.words import card_text as card_text
