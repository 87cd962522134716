"""The sections of the show, in their order: its screens' titles, and the chapters of its recordings."""

from __future__ import annotations

TITLE = "What this is"
TAUGHT = "What is taught"
TRAINING = "Training"
RECALL = "Before and after: taught"
GENERALIZATION = "Before and after: held out"
FIGURES = "The figures"
NOT_SHOWN = "Lost, and not shown"
ERASED = "One fact, erased and put back"  # of a run with a memory alone, before the figures
SECTIONS = (TITLE, TAUGHT, TRAINING, RECALL, GENERALIZATION, FIGURES, NOT_SHOWN)

PLATFORMS_ANSWERS = "Two platforms: answers"
PLATFORMS_FIGURES = "Two platforms: figures"
