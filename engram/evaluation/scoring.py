"""How answers are scored: exact match first; and every figure of a result document, from its raw answers alone."""

from __future__ import annotations

import difflib
import itertools
import math
import statistics as stdlib_statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from engram.dataset.rows import TEST_KINDS
from engram.support.statistics import wilson
from engram.support.text import comparable

VERSION = 3  # raise it whenever a score of the same answer may change: documents of different versions don't compare
SPLITS = TEST_KINDS
ALWAYS = ("recall", "generalization")  # in every document, also without rows
GENERAL = ("text", "chat")


class Score(NamedTuple):
    """Exact and prefix match after white-space normalisation, and difflib's similarity from 0 to 1."""

    exact: bool
    prefix: bool
    similarity: float


def score(expected: str, answer: str) -> Score:
    """Score one answer.

    Exact: equal after Unicode NFC and white-space normalisation; case and punctuation count, and where the expected
    answer has several lines, so do line breaks and indentation. Prefix: the answer begins with the expected one,
    whatever follows. Similarity: difflib's ratio, 2·matches / total length.
    """
    wanted, given = comparable(expected, expected), comparable(answer, expected)
    similarity = difflib.SequenceMatcher(None, wanted, given, autojunk=False).ratio()
    return Score(wanted == given, given.startswith(wanted), similarity)


def derived(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Every figure of a result document that follows from its raw parts: answers, repeats, timed, general."""
    answers = raw["answers"]
    return {
        "splits": {name: _split([a for a in answers if a["split_kind"] == name]) for name in splits_of(answers)},
        "consistency": consistency(raw["repeats"]),
        "latency": latency(raw["timed"]),
        "retention": {kind: perplexity([r for r in raw["general"] if r["kind"] == kind]) for kind in GENERAL},
    }


def splits_of(answers: Sequence[Mapping[str, Any]]) -> list[str]:
    """The splits that these answers are of, in the order of `SPLITS`."""
    found = {*ALWAYS, *(answer["split_kind"] for answer in answers)}
    return [name for name in SPLITS if name in found]


def summarise(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The scores of a list of scored answers: n, shares with the Wilson interval of the exact one, mean nats."""
    exact = [a["exact"] for a in answers]
    return {
        **{"n": len(exact), "exact": mean(exact), "ci95": wilson(sum(exact), len(exact))},
        **{name: mean([a[name] for a in answers]) for name in ("prefix", "similarity", "nll")},
    }


def consistency(repeats: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Agreement of the answers to one pattern: across reserved phrasings (greedy), and across samples."""
    greedy, sampled = (
        [[comparable(text, repeat["expected"]) for text in repeat[way]] for repeat in repeats]
        for way in ("greedy", "sampled")
    )
    right = [text == comparable(r["expected"], r["expected"]) for r, texts in zip(repeats, sampled) for text in texts]
    return {
        "patterns": len(repeats),
        "phrasing_agreement": _agreement(greedy),
        "sample_agreement": _agreement(sampled),
        "sample_exact": mean(right),
    }


def latency(timed: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over single prompts: seconds to the first token, tokens per second after it."""
    firsts = [one["first_seconds"] for one in timed if one["tokens"]]
    followed = [one for one in timed if one["tokens"] > 1 and one["rest_seconds"] > 0]
    rates = [(one["tokens"] - 1) / one["rest_seconds"] for one in followed]
    return {
        "prompts": len(timed),
        "first_token_seconds": stdlib_statistics.median(firsts) if firsts else None,
        "tokens_per_second": stdlib_statistics.median(rates) if rates else None,
    }


def perplexity(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Perplexity over all tokens of some rows: exp(Σ nats / Σ tokens)."""
    tokens = sum(row["tokens"] for row in rows)
    return {"n": len(rows), "tokens": tokens, "perplexity": exponential(mean([row["nats"] for row in rows], tokens))}


def exponential(nats: float | None) -> float | None:
    """The perplexity of a mean of nats per token, finite; None where there is none."""
    return None if nats is None else math.exp(min(nats, 700.0))


def _split(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    groups: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for answer in answers:
        groups[f"{answer['kind']}/{answer['category']}"].append(answer)
    return summarise(answers) | {"by_category": {name: summarise(group) for name, group in sorted(groups.items())}}


def _agreement(groups: Sequence[Sequence[str]]) -> float | None:
    """The share of equal pairs among all pairs within a group."""
    return mean([one == other for group in groups for one, other in itertools.combinations(group, 2)])


def mean(values: Sequence[float], number: int | None = None) -> float | None:
    """The sum of some values by their number, or by that of the tokens that they are of; None where there is none."""
    number = len(values) if number is None else number
    return sum(values) / number if number else None
