"""prompt -> k, the number of active experts, with every reason kept apart.

score = sum of the contributions' points, clipped to [0, 1];  k = round(k_min + (k_max - k_min) * score).
The model is additive, so the points shown are the whole explanation.
"""

from collections import Counter
from dataclasses import dataclass, fields
from math import log1p
from typing import Any, NamedTuple

from . import morphology, signals
from .lexicon import POPULAR, WORLD, Lexicon, find_terms, load
from .text import Text, read

K_LIMIT = 64  # experts in an OLMoE layer

# Points of each signal at full strength: a cumulative (ordinal) logistic regression of the three tiers of
# tests/data/adaptive_prompts.tsv, split `fit`, on the parts' shares, shrunk towards first guesses, scaled to put the
# two thresholds near 0.14 and 0.45, and rounded. Length would come out slightly negative; it stays a token.
BASE_POINTS = 0.15
LENGTH_POINTS = 0.03
TERM_POINTS = 0.70
UNSEEN_POINTS = 0.25
CODE_POINTS = 0.35
FORMULA_POINTS = 0.40
NOTATION_POINTS = 0.20
EPONYM_POINTS = 0.12
QUESTION_POINTS = 0.10
KNOWLEDGE_POINTS = 0.12
CONVERSATION_POINTS = -0.33

LENGTH_FULL = 200  # words at which length counts in full
DENSITY_HALF = 0.35  # weight * sqrt(words) needed for half of the points of terms
BACKGROUND = 0.02  # weight of terms per word that everyday text holds by chance
BACKGROUND_FREE = 20  # words before that is taken off
CONVERSATION_HALF = 0.25  # conversational words per word at which half of their points count
POPULAR_SHARE = 0.2  # of the weight of a term of school science that counts as technical
MAX_UNSEEN = 80  # unknown words that are looked at
MAX_TERMS_LISTED = 64


class Contribution(NamedTuple):
    """One part of the score: `points` were added for `value`."""

    name: str
    label: str
    value: float
    points: float


class Term(NamedTuple):
    """A technical term found, at prompt[start:end] (None where inflection or spacing hides it)."""

    term: str
    field: str
    weight: float
    start: int | None = None
    end: int | None = None


Found = tuple[float, str, str]  # weight, term, field


@dataclass(frozen=True, slots=True)
class Choice:
    """The k chosen for a prompt, and why. The contributions' points sum to `raw_score`, which `score` clips."""

    k: int
    score: float
    raw_score: float
    contributions: tuple[Contribution, ...]
    terms: tuple[Term, ...]
    field: str | None
    k_min: int
    k_max: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-safe."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        values["contributions"] = [c._asdict() for c in self.contributions]
        values["terms"] = [t._asdict() for t in self.terms]
        return values


def choose(prompt: str, k_min: int = 4, k_max: int = 16) -> Choice:
    """The number of active experts for a prompt, by its length, its terms and its form.

    Reads at most the first 1,500 and the last 700 characters (its words; form from the first 800 and the
    last 300), so the time is bounded. Any str is accepted; a prompt without words gets k_min.
    """
    _check_bounds(k_min, k_max)
    if not isinstance(prompt, str):
        raise TypeError(f"prompt must be a str, not {type(prompt).__name__}: pass the visitor's message as text.")
    text = read(prompt)
    if not text.words or not any(map(str.isalnum, text.original)):
        empty = Contribution("length", "no words", 0, 0.0)
        return Choice(k_min, 0.0, 0.0, (empty,), (), None, k_min, k_max)
    lexicon = load()
    parts, terms = _contributions(text, lexicon)
    contributions = tuple(c for c in parts if c.points or c.name == "length")
    raw = round(sum(c.points for c in contributions), 3)
    score = min(1.0, max(0.0, raw))
    k = round(k_min + (k_max - k_min) * score)
    listed = tuple(_located(t, text) for t in terms[:MAX_TERMS_LISTED])
    return Choice(k, score, raw, contributions, listed, _dominant(terms), k_min, k_max)


def _check_bounds(k_min: int, k_max: int) -> None:
    for name, value in (("k_min", k_min), ("k_max", k_max)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{name} must be a whole number from 1 to {K_LIMIT}, not {value!r}.")
        if not 1 <= value <= K_LIMIT:
            raise ValueError(f"{name} is {value}: choose a whole number from 1 to {K_LIMIT}.")
    if k_min > k_max:
        raise ValueError(f"k_min ({k_min}) is above k_max ({k_max}): lower k_min or raise k_max.")


def _vocabulary(text: Text, distinct: set[str], lexicon: Lexicon) -> tuple[list[Found], float, dict[str, float]]:
    """(technical terms by weight, weight of general knowledge, unseen words with how technical they look)."""
    found, covered = find_terms(text.words, distinct, lexicon)
    unknown = distinct - lexicon.single - lexicon.everyday - covered
    unseen: dict[str, float] = {}
    for word in sorted(unknown)[:MAX_UNSEEN]:
        base = lexicon.known_form(word)
        if base is None:
            weight = morphology.weight(word)
            if weight:
                unseen[word] = weight
        elif base in lexicon.terms:
            found.append(base)
    terms: list[Found] = []
    knowledge = 0.0
    for term in dict.fromkeys(found):
        weight, field = lexicon.terms[term]
        if field in (WORLD, POPULAR):
            knowledge += weight
        if field == POPULAR:
            terms.append((round(POPULAR_SHARE * weight, 3), term, field))
        elif field != WORLD:
            terms.append((weight, term, field))
    terms.sort(reverse=True)
    return terms, knowledge, unseen


def _contributions(text: Text, lexicon: Lexicon) -> tuple[list[Contribution], list[Found]]:
    """Every part of the score, whether it counts or not, and the technical terms."""
    sample, n = text.sample, len(text.words)
    counts = Counter(text.words)
    distinct = set(counts)
    terms, knowledge, unseen = _vocabulary(text, distinct, lexicon)
    for acronym in signals.acronyms(sample):
        if acronym not in lexicon.terms and acronym not in lexicon.everyday:
            unseen[acronym] = morphology.LEARNED
    term_weight, unseen_weight = sum(weight for weight, _, _ in terms), sum(unseen.values())
    knowledge += signals.names(sample, lexicon.everyday) + signals.years(sample)
    code, formula, notation = signals.code(sample), signals.formula(sample), signals.notation(sample)
    eponyms = signals.eponyms(sample)
    form = signals.question_form(sample, distinct)
    talk = signals.conversation(counts)

    def part(name: str, label: str, value: float, full: float, share: float) -> Contribution:
        return Contribution(name, label, round(value, 2), round(full * share, 3))

    return [
        part("base", "any prompt", 1, BASE_POINTS, 1),
        part("length", _count(text.word_count, "word"), text.word_count, LENGTH_POINTS,
             min(1, log1p(n) / log1p(LENGTH_FULL))),
        part("terms", _count(len(terms), "technical term"), term_weight, TERM_POINTS, _density(term_weight, n)),
        part("unseen", _count(len(unseen), "rare word"), unseen_weight, UNSEEN_POINTS, _density(unseen_weight, n)),
        part("code", "code", code, CODE_POINTS, min(1, code / 2)),
        part("formula", "formula", formula, FORMULA_POINTS, min(1, formula / 2)),
        part("notation", "technical notation", notation, NOTATION_POINTS, min(1, notation)),
        part("eponym", "named law or effect", eponyms, EPONYM_POINTS, min(1, eponyms)),
        part("question", f"question form: {form}", signals.LEVELS.get(form, 0), QUESTION_POINTS,
             signals.LEVELS.get(form, 0)),
        part("knowledge", "names and facts", knowledge, KNOWLEDGE_POINTS, _density(knowledge, n)),
        part("conversation", "conversational words", talk, CONVERSATION_POINTS,
             talk / (talk + CONVERSATION_HALF * n)),
    ], terms  # fmt: skip


def _density(weight: float, words: int) -> float:
    """Share in [0, 1) of the full points: w / (w + c sqrt(n)), w less what everyday text of n words holds anyway."""
    excess = max(0.0, weight - BACKGROUND * max(0, words - BACKGROUND_FREE))
    return excess / (excess + DENSITY_HALF * words**0.5)


def _dominant(terms: list[Found]) -> str | None:
    """The technical field with the greatest weight among the terms; None where there is none."""
    totals: dict[str, float] = {}
    for weight, _, field in terms:
        if field != POPULAR:
            totals[field] = totals.get(field, 0.0) + weight
    return max(totals, key=lambda f: totals[f]) if totals else None


def _located(found: Found, text: Text) -> Term:
    weight, term, field = found
    index = text.lowered.find(term)
    if index < 0:
        return Term(term, field, weight)
    start = text.offset(index)
    return Term(term, field, weight, start, start + len(term))


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
