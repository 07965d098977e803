"""The shipped lexicon of terms: loading, and finding terms among words.

`assets/technical_terms.tsv` (term, weight in [0, 1], field) is made by `olmoe_space.training.lexicon`. Three
fields are not technical: `world` (general knowledge), `popular` (school science) and `everyday` (words that never
count as rare).
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

PATH = Path(__file__).resolve().parents[2] / "assets" / "technical_terms.tsv"
WORLD, POPULAR, EVERYDAY = "world", "popular", "everyday"
MAX_TERM_WORDS = 4


@dataclass(frozen=True, slots=True)
class Lexicon:
    terms: dict[str, tuple[float, str]]  # term -> (weight, field); everyday words apart
    heads: frozenset[str]  # first words of the terms of several words
    everyday: frozenset[str]
    known: frozenset[str]  # every word that stands alone in the lexicon, and every head

    def lookup(self, word: str) -> str | None:
        """The term that a word is a form of: itself, its singular, its verb, or without possessive."""
        if word in self.terms:
            return word
        return next((base for base in bases(word) if base in self.terms), None)


@lru_cache(maxsize=1)
def load() -> Lexicon:
    """Read the lexicon once."""
    terms: dict[str, tuple[float, str]] = {}
    entries: dict[str, tuple[float, str]] = {}  # few distinct ones, so each is parsed once
    everyday: list[str] = []
    everyday_mark = f"0\t{EVERYDAY}"
    for line in PATH.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        term, _, rest = line.partition("\t")
        if rest == everyday_mark:
            everyday.append(term)
        else:
            entry = entries.get(rest)
            if entry is None:
                weight, field = rest.split("\t")
                entry = entries[rest] = (float(weight), field)
            terms[term] = entry
    heads = frozenset([t[: t.index(" ")] for t in terms if " " in t])
    return Lexicon(terms, heads, frozenset(everyday), heads.union(terms, everyday))


def bases(word: str) -> list[str]:
    """Candidate base forms of an inflected English word, likeliest first: `eigenvalues` -> `eigenvalue`."""
    found: list[str] = []
    if word.endswith("'s"):
        word = word[:-2]
        found.append(word)
    if len(word) < 4:
        return found
    if word.endswith("s") and not word.endswith("ss"):
        found.append(word[:-1])
        if word.endswith("ies"):
            found.append(word[:-3] + "y")
        elif word.endswith("es"):
            found.append(word[:-2])
            found.append(word[:-2] + "is")  # diagnoses
            if word.endswith("ices"):
                found += [word[:-4] + "ix", word[:-4] + "ex"]  # matrices, vertices
    for suffix in ("ing", "ed"):
        stem = word.removesuffix(suffix)
        if stem != word and len(stem) >= 3:
            found += [stem, stem + "e"]
            if stem[-1] == stem[-2]:
                found.append(stem[:-1])
    if word.endswith("ally"):
        found.append(word[:-4])
    if word.endswith("ly"):
        found.append(word[:-2])
    if "-" in word:
        found.append(word.replace("-", " "))
        found.append(word.replace("-", ""))
    return found


def find_terms(words: list[str], lexicon: Lexicon) -> tuple[list[str], set[str]]:
    """(distinct terms, longest match first; words covered by terms of several words).

    A word inside a longer term is not counted again: `hash table` is one term.
    """
    heads, terms = lexicon.heads, lexicon.terms
    found: dict[str, None] = {}
    covered: set[str] = set()
    end = 0
    for i, word in enumerate(words):
        if word in heads and i >= end:
            for size in range(min(MAX_TERM_WORDS, len(words) - i), 1, -1):
                phrase = " ".join(words[i : i + size])
                term = phrase if phrase in terms else _singular_phrase(phrase, terms)
                if term:
                    found[term] = None
                    covered.update(words[i : i + size])
                    end = i + size
                    break
    for word in set(words) & terms.keys():
        if word not in covered:
            found[word] = None
    return list(found), covered


def _singular_phrase(phrase: str, terms: dict[str, tuple[float, str]]) -> str | None:
    head, _, last = phrase.rpartition(" ")
    return next((p for base in bases(last) if (p := f"{head} {base}") in terms), None)
