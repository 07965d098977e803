"""The shipped lexicon of terms: loading, and finding terms among words.

`assets/technical_terms.tsv` (term, weight in [0, 1], field) is made by `olmoe_space.training.lexicon`. Three
fields are not technical: `world` (general knowledge), `popular` (school science) and `everyday` (words that never
count as rare).
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

PATH = Path(__file__).resolve().parents[2] / "assets" / "technical_terms.tsv"
WORLD, POPULAR, EVERYDAY = "world", "popular", "everyday"
MAX_TERM_WORDS = 4
STEM = 4


@dataclass(frozen=True, slots=True)
class Lexicon:
    terms: dict[str, tuple[float, str]]  # term -> (weight, field); everyday words apart
    single: frozenset[str]  # the terms of one word
    seconds: dict[str, set[str]]  # first word -> STEM letters of the second, of the terms of several words
    heads: frozenset[str]  # the first words
    everyday: frozenset[str]

    def known_form(self, word: str) -> str | None:
        """The entry that a word is a form of, the likeliest base first; None for an unknown word."""
        return next((base for base in bases(word) if base in self.terms or base in self.everyday), None)


@lru_cache(maxsize=1)
def load() -> Lexicon:
    """Read the lexicon once."""
    terms: dict[str, tuple[float, str]] = {}
    seconds: dict[str, set[str]] = {}
    entries: dict[str, tuple[float, str]] = {}  # few distinct ones, so each is parsed once
    everyday: list[str] = []
    everyday_mark = f"0\t{EVERYDAY}"
    for line in PATH.read_text(encoding="utf-8").splitlines():
        if line[0] == "#":
            continue
        term, _, rest = line.partition("\t")
        if rest == everyday_mark:
            everyday.append(term)
            continue
        entry = entries.get(rest)
        if entry is None:
            weight, _, field = rest.partition("\t")
            entry = entries[rest] = (float(weight), field)
        terms[term] = entry
        if " " in term:
            first, second = term.split(" ", 2)[:2]
            seconds.setdefault(first, set()).add(second[:STEM])
    single = frozenset([term for term in terms if " " not in term])
    return Lexicon(terms, single, seconds, frozenset(seconds), frozenset(everyday))


def bases(word: str) -> list[str]:
    """Candidate base forms of an inflected English word, likeliest first: `eigenvalues` -> `eigenvalue`."""
    found: list[str] = []
    if word.endswith("'s"):
        word = word[:-2]
        found.append(word)
    if len(word) < 4:
        return found
    last = word[-1]
    if last == "s" and word[-2] != "s":
        found.append(word[:-1])
        if word.endswith("ies"):
            found.append(word[:-3] + "y")
        elif word.endswith("es"):
            found += [word[:-2], word[:-2] + "is"]  # diagnoses
            if word.endswith("ices"):
                found += [word[:-4] + "ix", word[:-4] + "ex"]  # matrices, vertices
    elif (last == "g" and word.endswith("ing")) or (last == "d" and word.endswith("ed")):
        stem = word[:-3] if last == "g" else word[:-2]
        if len(stem) >= 3:
            found += [stem + "e", stem]
            if stem[-1] == stem[-2]:
                found.append(stem[:-1])
    elif last == "y" and word.endswith("ly"):
        found += [word[:-2], word[:-4]] if word.endswith("ally") else [word[:-2]]
    if "-" in word:
        found += [word.replace("-", " "), word.replace("-", "")]
    return found


def find_terms(words: list[str], distinct: set[str], lexicon: Lexicon) -> tuple[list[str], set[str]]:
    """(distinct terms, words that stand inside terms of several words).

    The longest match wins, and a word inside it is not counted again: `hash table` is one term.
    """
    found: dict[str, None] = {}
    covered: set[str] = set()
    heads, seconds = distinct & lexicon.heads, lexicon.seconds
    end = 0
    for i, (word, following) in enumerate(pairwise(words)):
        if word in heads and following[:STEM] in seconds[word] and i >= end:
            phrase = _longest_phrase(words[i : i + MAX_TERM_WORDS], lexicon.terms)
            if phrase:
                found[phrase] = None
                end = i + phrase.count(" ") + 1
                covered.update(words[i:end])
    return [*found, *sorted((distinct & lexicon.single) - covered)], covered


def _longest_phrase(words: list[str], terms: dict[str, tuple[float, str]]) -> str | None:
    """The longest term that begins these words, its last word perhaps inflected."""
    for size in range(len(words), 1, -1):
        head = " ".join(words[: size - 1])
        for last in (words[size - 1], *bases(words[size - 1])):
            if f"{head} {last}" in terms:
                return f"{head} {last}"
    return None
