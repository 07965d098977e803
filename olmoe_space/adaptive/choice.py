"""prompt -> k, the number of active experts, with every reason kept apart.

score = sum of the contributions' points, clipped to [0, 1];  k = round(k_min + (k_max - k_min) * score).
The model is additive, so the points shown are the whole explanation.
"""

from dataclasses import asdict, dataclass
from math import log1p
from typing import Any

from . import morphology, signals
from .lexicon import POPULAR, WORLD, Lexicon, bases, find_terms, load
from .text import Text, read

K_LIMIT = 64  # experts in an OLMoE layer

# Points of each signal at full strength.
BASE_POINTS = 0.10
LENGTH_POINTS = 0.05
TERM_POINTS = 0.75
UNSEEN_POINTS = 0.35
CODE_POINTS = 0.40
FORMULA_POINTS = 0.45
NOTATION_POINTS = 0.25
EPONYM_POINTS = 0.2
QUESTION_POINTS = 0.12
WORLD_POINTS = 0.15
CONVERSATION_POINTS = -0.30

LENGTH_FULL = 200  # words at which length counts in full
DENSITY_HALF = 0.35  # weight * sqrt(words) needed for half of the points of terms
CONVERSATION_HALF = 0.25
POPULAR_SHARE = 0.2  # of the weight of a term of school science that counts as technical
MAX_UNSEEN = 300  # unknown words that are looked at
MAX_TERMS_LISTED = 64


@dataclass(frozen=True, slots=True)
class Contribution:
    """One part of the score: `points` were added for `value`."""

    name: str
    label: str
    value: float
    points: float


@dataclass(frozen=True, slots=True)
class Term:
    """A technical term found, at prompt[start:end] (None where inflection or spacing hides it)."""

    term: str
    field: str
    weight: float
    start: int | None = None
    end: int | None = None


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
        return asdict(self) | {
            "contributions": [asdict(c) for c in self.contributions],
            "terms": [asdict(t) for t in self.terms],
        }


def choose(prompt: str, k_min: int = 4, k_max: int = 16) -> Choice:
    """The number of active experts for a prompt, by its length, its terms and its form.

    Reads at most the first 12,000 and the last 4,000 characters (its words; form from the first 3,000 and the
    last 1,000), so the time is bounded. Any str is accepted; a prompt without words gets k_min.
    """
    _check_bounds(k_min, k_max)
    if not isinstance(prompt, str):
        raise TypeError(f"prompt must be a str, not {type(prompt).__name__}: pass the visitor's message as text.")
    text = read(prompt)
    if not text.words:
        empty = Contribution("length", "no words", 0, 0.0)
        return Choice(k_min, 0.0, 0.0, (empty,), (), None, k_min, k_max)
    lexicon = load()
    terms, world, unseen = _vocabulary(text, lexicon)
    contributions = tuple(c for c in _contributions(text, lexicon, terms, world, unseen) if c.points or c.name == "length")
    raw = round(sum(c.points for c in contributions), 3)
    score = min(1.0, max(0.0, raw))
    k = round(k_min + (k_max - k_min) * score)
    listed = tuple(_locate(t, text) for t in terms[:MAX_TERMS_LISTED])
    return Choice(k, score, raw, contributions, listed, _dominant(terms), k_min, k_max)


def _check_bounds(k_min: int, k_max: int) -> None:
    for name, value in (("k_min", k_min), ("k_max", k_max)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{name} must be a whole number from 1 to {K_LIMIT}, not {value!r}.")
        if not 1 <= value <= K_LIMIT:
            raise ValueError(f"{name} is {value}: choose a whole number from 1 to {K_LIMIT}.")
    if k_min > k_max:
        raise ValueError(f"k_min ({k_min}) is above k_max ({k_max}): lower k_min or raise k_max.")


def _vocabulary(text: Text, lexicon: Lexicon) -> tuple[list[Term], list[float], dict[str, float]]:
    """(technical terms by weight, words of general knowledge, unseen words with how technical they look)."""
    found, covered = find_terms(text.words, lexicon)
    unknown = set(text.words) - lexicon.known - covered
    unseen: dict[str, float] = {}
    for word in sorted(unknown)[:MAX_UNSEEN]:
        base = lexicon.lookup(word)
        if base:
            found.append(base)
        elif not lexicon.everyday.intersection(bases(word)):
            weight = morphology.weight(word)
            if weight:
                unseen[word] = weight
    terms: list[Term] = []
    world: list[float] = []
    for term in dict.fromkeys(found):
        weight, field = lexicon.terms[term]
        if field in (WORLD, POPULAR):
            world.append(weight)
        if field == POPULAR:
            terms.append(Term(term, field, round(POPULAR_SHARE * weight, 3)))
        elif field != WORLD:
            terms.append(Term(term, field, weight))
    terms.sort(key=lambda t: (-t.weight, t.term))
    return terms, world, unseen


def _contributions(
    text: Text, lexicon: Lexicon, terms: list[Term], world: list[float], unseen: dict[str, float]
) -> list[Contribution]:
    sample = text.sample
    n = text.word_count
    length = min(1.0, log1p(n) / log1p(LENGTH_FULL))
    weight = sum(t.weight for t in terms)
    for acronym in signals.acronyms(sample):
        if acronym not in lexicon.known:
            unseen[acronym] = morphology.LEARNED
    unseen_weight = sum(unseen.values())
    code, formula, notation = signals.code(sample), signals.formula(sample), signals.notation(sample)
    form, level = signals.question_form(text.sample.lower())
    eponyms = signals.eponyms(sample)
    knowledge = sum(world) + len(signals.names(sample, lexicon.everyday)) + signals.years(sample)
    talk = signals.conversation(text.words)
    return [
        Contribution("base", "any prompt", 1, BASE_POINTS),
        Contribution("length", _count(n, "word"), n, round(LENGTH_POINTS * length, 3)),
        Contribution("terms", _count(len(terms), "technical term"), round(weight, 2),
                     round(TERM_POINTS * _density(weight, n), 3)),
        Contribution("unseen", _count(len(unseen), "rare word"), round(unseen_weight, 2),
                     round(UNSEEN_POINTS * _density(unseen_weight, n), 3)),
        Contribution("code", "code", code, round(CODE_POINTS * min(1, code / 2), 3)),
        Contribution("formula", "formula", formula, round(FORMULA_POINTS * min(1, formula / 2), 3)),
        Contribution("notation", "notation", notation, round(NOTATION_POINTS * min(1, notation), 3)),
        Contribution("eponym", "named law or effect", eponyms, round(EPONYM_POINTS * min(1, eponyms), 3)),
        Contribution("question", f"question form: {form}", level, round(QUESTION_POINTS * level, 3)),
        Contribution("world", "names and facts", round(knowledge, 2),
                     round(WORLD_POINTS * _density(knowledge, n), 3)),
        Contribution("conversation", "conversational words", round(talk, 1),
                     round(CONVERSATION_POINTS * talk / (talk + CONVERSATION_HALF * n), 3)),
    ]


def _density(weight: float, words: int) -> float:
    """Saturating density in [0, 1): w / (w + c sqrt(n)), so that neither repeats nor length alone can fill it."""
    return weight / (weight + DENSITY_HALF * words**0.5)


def _dominant(terms: list[Term]) -> str | None:
    """The field with the greatest weight among the terms."""
    totals: dict[str, float] = {}
    for term in terms:
        totals[term.field] = totals.get(term.field, 0.0) + term.weight
    return max(totals, key=lambda f: totals[f]) if totals else None


def _locate(term: Term, text: Text) -> Term:
    index = text.lowered.find(term.term)
    if index < 0:
        return term
    start = text.offset(index)
    return Term(term.term, term.field, term.weight, start, start + len(term.term))


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
