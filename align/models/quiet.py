"""Silence for the libraries below us, so that on the screen there is one progress bar: ours."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

CHATTERERS = ("transformers", "trl", "peft", "accelerate", "datasets", "torch", "PIL")


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back progress bars, log lines below ERROR and warnings of the training libraries."""
    # Read when the libraries are first imported, so import them below this. Nothing is reported to anybody.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as transformers_logging

    bars = transformers_logging.is_progress_bar_enabled()
    loggers = [logging.getLogger(name) for name in CHATTERERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
