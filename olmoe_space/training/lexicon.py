"""Makes assets/technical_terms.tsv, the lexicon of `olmoe_space.adaptive`.

    python -m olmoe_space.training.lexicon --corpus DIR [--output FILE]

Three sources, joined by `build`:

- by hand: `technical_terms_by_hand.tsv`; weight 1, less for a word that everyday text also uses;
- glossaries: the head words of the corpus's "Define ..." exchanges, which come from textbooks of a known field;
- learned: words and pairs that are much likelier in textbooks of science, mathematics and programming than in
  dialogue, stories and small talk. Likelier = log-odds ratio with an informative Dirichlet prior (Monroe, Colaresi
  and Quinn 2008, "Fightin' Words", eq. 16-22): with counts y, totals n and prior a from both texts pooled,
      delta = log((y1 + a) / (n1 + a0 - y1 - a)) - log((y2 + a) / (n2 + a0 - y2 - a)),
      z = delta / sqrt(1 / (y1 + a) + 1 / (y2 + a)).

Words that everyday or general text uses are shipped too, with weight 0: they never count as rare.
"""

import argparse
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from olmoe_space.adaptive.lexicon import EVERYDAY, MAX_TERM_WORDS, PATH, POPULAR, WORLD, bases
from olmoe_space.adaptive.text import lower, split_words
from olmoe_space.training.corpus import read_lines

BY_HAND = Path(__file__).with_name("technical_terms_by_hand.tsv")

FIELD_OF_SOURCE = {
    "openstax-algebra-trigonometry": "mathematics", "openstax-precalculus": "mathematics",
    "openstax-statistics": "statistics", "openstax-physics": "physics", "openstax-chemistry": "chemistry",
    "openstax-biology": "biology", "openstax-microbiology": "biology", "openstax-anatomy": "medicine",
    "medquad": "medicine", "openstax-astronomy": "astronomy", "openstax-psychology": "psychology",
    "openstax-economics": "economics", "openstax-sociology": "humanities", "openstax-python": "programming",
    "practical-python": "programming", "swc-python": "programming", "byte-of-python": "programming",
}  # fmt: skip
TECHNICAL_PARTS = ("science", "math", "code", "web")
EVERYDAY_PARTS = ("dialogue", "stories")
EVERYDAY_OWN = ("smalltalk", "tasks", "stories", "words")
GENERAL_OWN = ("world", "explain")
GENERAL_SOURCES = ("wikipedia", "factbook", "openstax-us-history", "based-cooking", "plainlanguage")
GENERAL_STEP = 4  # every fourth document of general text suffices for word frequencies

PRIOR_TOTAL = 500.0  # a0, pseudo-counts spread over the vocabulary as the pooled text is
MIN_Z = 4.0
MIN_DELTA = 3.5  # a term is at least e^3.5 = 33 times likelier in technical text
MIN_COUNT, MIN_PAIR_COUNT = 8, 12
LEARNED_LIMIT = 4_000
LEARNED_WEIGHT = (0.15, 0.55)  # at MIN_DELTA, and at 7 and more
GLOSSARY_WEIGHT = 0.6
POPULAR_WEIGHT = 0.4  # of a term both technical and popular
HALF_PER_MILLION = 8.0  # everyday occurrences per million words that halve a weight
EVERYDAY_LIMIT = 6_300
MIN_EVERYDAY_COUNT = 4
LEAST_WEIGHT = 0.1  # below it a term is everyday

_LOWER_WORD = re.compile(r"(?<![\w'-])[a-z][a-z'-]*[a-z](?![\w-])")
_NAME_WORD = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+")
_ASKED = re.compile(
    r"(?:Define|What is meant by|What does the term|What does) (?:the term )?\"?(.{3,40}?)\"? ?"
    r"(?:mean(?: in \w+)?\?|\?|\.)\Z"
)
_TERM = re.compile(r"[a-z][a-z0-9'/.+#é-]*(?: [a-z0-9][a-z0-9'/.+#é-]*)*\Z")
_MARKUP = re.compile(r"\[\\?\[link\\?\]\]\([^)]*\)|https?://\S+|\$[^$\n]{1,200}\$|\\\w+")


@dataclass(slots=True)
class Counts:
    """Word and pair counts of the corpus, by what the text is."""

    technical: Counter[str] = field(default_factory=Counter)
    pairs: Counter[str] = field(default_factory=Counter)
    by_field: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    everyday: Counter[str] = field(default_factory=Counter)
    everyday_pairs: Counter[str] = field(default_factory=Counter)
    general: Counter[str] = field(default_factory=Counter)
    names: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)  # words and pairs of the questions of GENERAL_OWN
    glossary: dict[str, str] = field(default_factory=dict)


Rows = dict[str, tuple[float, str]]  # term -> (weight, field)


def count(corpus: Path) -> Counts:
    """One pass over the corpus."""
    counts = Counts()
    for part in TECHNICAL_PARTS + EVERYDAY_PARTS:
        for i, line in enumerate(read_lines(corpus / "pretrain" / f"{part}.jsonl.zst")):
            source, text = line["source"], line["text"]
            if source in FIELD_OF_SOURCE:
                _add_technical(counts, text, FIELD_OF_SOURCE[source])
            elif part in EVERYDAY_PARTS:
                _add_everyday(counts, text)
            elif source in GENERAL_SOURCES and i % GENERAL_STEP == 0:
                counts.general.update(_LOWER_WORD.findall(text))
    for part in EVERYDAY_OWN + GENERAL_OWN:
        for line in read_lines(corpus / "own" / f"{part}.jsonl"):
            text = "\n".join(line.get("q", []) + line.get("a", []) + [t[1] for t in line.get("turns", [])])
            if part in EVERYDAY_OWN:
                _add_everyday(counts, text)
            else:
                counts.general.update(5 * _LOWER_WORD.findall(text))
                _add_asked(counts, " ".join(line.get("q", [])))
    for line in read_lines(corpus / "chat.jsonl.gz"):
        _add_chat(counts, line)
    return counts


def _add_technical(counts: Counts, text: str, name: str) -> None:
    written = split_words(_MARKUP.sub(" ", text))
    words = [w for w in written if w.islower()]  # names are no terms
    pairs = [
        f"{a} {b}"
        for a, b in zip(written, written[1:], strict=False)
        if len(a) > 3 and len(b) > 3 and a.islower() and b.islower()
    ]
    counts.technical.update(words)
    counts.pairs.update(pairs)
    counts.by_field[name].update(words)
    counts.by_field[name].update(pairs)


def _add_everyday(counts: Counts, text: str) -> None:
    words = _LOWER_WORD.findall(text)
    counts.everyday.update(words)
    counts.everyday_pairs.update(f"{a} {b}" for a, b in zip(words, words[1:], strict=False))
    counts.names.update(w.lower() for w in _NAME_WORD.findall(text))


def _add_asked(counts: Counts, questions: str) -> None:
    words = split_words(lower(questions))
    forms = words + [f"{a} {b}" for a, b in zip(words, words[1:], strict=False)]
    counts.asked.update(base for form in set(forms) for base in (form, *bases(form)))


def _add_chat(counts: Counts, line: dict) -> None:
    if line["domain"] == "dialogue":
        for message in line["messages"]:
            _add_everyday(counts, message["content"])
    elif line["source"] in FIELD_OF_SOURCE and line["source"] != "medquad":
        asked = _ASKED.match(line["messages"][0]["content"])
        if asked:
            counts.glossary.setdefault(lower(asked[1]).replace("\\", ""), FIELD_OF_SOURCE[line["source"]])


def log_odds(
    ours: Counter[str], theirs: Counter[str], least: int, total: float = PRIOR_TOTAL
) -> dict[str, tuple[float, float]]:
    """term -> (delta, z) of the module docstring, for terms that `ours` holds at least `least` times."""
    n1, n2 = ours.total(), theirs.total()
    found = {}
    for term, y1 in ours.items():
        if y1 < least:
            continue
        y2 = theirs[term]
        prior = total * (y1 + y2) / (n1 + n2)
        odds1 = (y1 + prior) / (n1 + total - y1 - prior)
        odds2 = (y2 + prior) / (n2 + total - y2 - prior)
        delta = math.log(odds1 / odds2)
        found[term] = (delta, delta / math.sqrt(1 / (y1 + prior) + 1 / (y2 + prior)))
    return found


def per_million(words: Counter[str], pairs: Counter[str]) -> dict[str, float]:
    """Uses of each word and pair per million words."""
    total = words.total()
    return {term: 1e6 * uses / total for term, uses in (words | pairs).items()}


def discount(term: str, rates: dict[str, float]) -> float:
    """1 for a term that ordinary text never uses, 1/2 at HALF_PER_MILLION, towards 0 for common words."""
    return 1 / (1 + (rates.get(term, 0.0) + rates.get(term + "s", 0.0)) / HALF_PER_MILLION)


def by_hand(rates: dict[str, float]) -> Rows:
    """The hand-picked terms. A term that is popular too keeps its field and loses most of its weight."""
    rows: Rows = {}
    popular: set[str] = set()
    for line in BY_HAND.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        name, term = line.split("\t")
        if name == POPULAR:
            popular.add(term)
        elif name == EVERYDAY:
            rows[term] = (0.0, EVERYDAY)
        elif term not in rows or rows[term][1] == WORLD:
            rows[term] = (max(LEAST_WEIGHT, discount(term, rates)), name)
    for term in popular:
        weight, name = rows.get(term, (discount(term, rates), POPULAR))
        if name == WORLD:
            rows[term] = (weight, POPULAR)
        elif name != POPULAR:
            rows[term] = (min(weight, POPULAR_WEIGHT), name)
        else:
            rows[term] = (max(LEAST_WEIGHT, weight), POPULAR)
    return rows


def glossary(counts: Counts, rates: dict[str, float], known: Rows) -> Rows:
    """Textbook glossary heads of up to MAX_TERM_WORDS words, less those that a known word already gives away."""
    plain = {t for t, (weight, name) in known.items() if weight >= GLOSSARY_WEIGHT and name not in (WORLD, POPULAR)}
    return {
        term: (GLOSSARY_WEIGHT * discount(term, rates), name)
        for term, name in counts.glossary.items()
        if term.count(" ") < MAX_TERM_WORDS and _TERM.match(term)
        if " " not in term or plain.isdisjoint(term.split())
    }


def learned(counts: Counts, rates: dict[str, float]) -> Rows:
    """Words and pairs far likelier in technical text, the likeliest LEARNED_LIMIT of them."""
    scores = log_odds(counts.technical, counts.everyday + counts.general, MIN_COUNT)
    common = {w for w, _ in counts.everyday.most_common(2_500)} | {w for w, _ in counts.general.most_common(600)}
    pairs = Counter({p: c for p, c in counts.pairs.items() if common.isdisjoint(p.split())})
    scores |= log_odds(pairs, counts.everyday_pairs, MIN_PAIR_COUNT)
    kept = {
        t: delta
        for t, (delta, z) in scores.items()
        if delta >= MIN_DELTA and z >= MIN_Z and len(t) > 4 and _TERM.match(t)
    }
    kept = {t: delta for t, delta in kept.items() if kept.keys().isdisjoint(bases(t))}  # singulars will do
    best = sorted(kept, key=lambda t: (-scores[t][1], t))[:LEARNED_LIMIT]
    return {t: (_learned_weight(kept[t]) * discount(t, rates), field_of(t, counts)) for t in best}


def _learned_weight(delta: float) -> float:
    low, high = LEARNED_WEIGHT
    return low + (high - low) * min(1.0, (delta - MIN_DELTA) / (7 - MIN_DELTA))


def field_of(term: str, counts: Counts) -> str:
    """The field whose textbooks hold the term most often per word."""
    return max(sorted(counts.by_field), key=lambda f: counts.by_field[f][term] / counts.by_field[f].total())


def everyday_words(counts: Counts, taken: Iterable[str]) -> Rows:
    """The commonest words of everyday and general text that are no terms, and common first names."""
    taken = set(taken)
    uses = counts.everyday + counts.general
    uses.update({n: c for n, c in counts.names.items() if c >= 20})
    words = (w for w, c in uses.most_common() if c >= MIN_EVERYDAY_COUNT and len(w) > 1 and w not in taken)
    kept: list[str] = []
    known: set[str] = set()
    for word in words:
        if known.isdisjoint(bases(word)):  # a form of a word already kept needs no line of its own
            kept.append(word)
            known.add(word)
        if len(kept) == EVERYDAY_LIMIT:
            break
    return {w: (0.0, EVERYDAY) for w in kept}


def build(counts: Counts) -> Rows:
    """Everyday words, then learned terms, glossaries and hand-picked ones, each overriding the one before."""
    everyday = per_million(counts.everyday, counts.everyday_pairs)
    ordinary = per_million(counts.everyday + counts.general, counts.everyday_pairs)
    picked = by_hand(everyday)
    rows = learned(counts, ordinary) | glossary(counts, everyday, picked)
    rows = {t: r for t, r in rows.items() if r[0] >= LEAST_WEIGHT}
    rows |= picked
    for term in rows.keys() & counts.asked.keys():  # a child may ask of it
        weight, name = rows[term]
        if name not in (WORLD, POPULAR):
            rows[term] = (min(weight, POPULAR_WEIGHT), name)
    rows = {t: r for t, r in rows.items() if split_words(t) == t.split(" ") and not _plural_of(t, rows)}
    return everyday_words(counts, rows) | rows


def _plural_of(term: str, rows: Rows) -> bool:
    """Whether a term is found by its singular anyway."""
    head, space, last = term.rpartition(" ")
    singular = f"{head}{space}{last.removesuffix('s')}"
    return last.endswith("s") and singular in rows and rows[singular][0] >= rows[term][0] / 2


def write(rows: Rows, path: Path) -> None:
    """The shipped file: a header, then term, weight, field, sorted by term."""
    header = (
        "# Lexicon of olmoe_space.adaptive: term, weight from 0 to 1, field. Made by olmoe_space.training.lexicon:\n"
        "# terms picked by hand, textbook glossaries, and words far likelier in technical than in everyday text.\n"
        "# Three fields are not technical: `everyday` words never count as rare; `world` words are those of general\n"
        "# knowledge, `popular` ones those of school science.\n"
        "# Licence: Apache-2.0. Word statistics and glossary heads are from the OpenStax 2018 editions (CC BY 4.0)\n"
        "# and the other texts listed in assets/olmoe-tiny/README.md; no text of theirs is here.\n"
    )
    lines = (f"{term}\t{weight:.2g}\t{name}\n" for term, (weight, name) in sorted(rows.items()))
    path.write_text(header + "".join(lines), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder with pretrain/, own/ and chat.jsonl.gz")
    parser.add_argument("--output", type=Path, default=PATH)
    args = parser.parse_args()
    rows = build(count(args.corpus))
    write(rows, args.output)
    for name, number in Counter(name for _, name in rows.values()).most_common():
        print(f"{number:6d} {name}")


if __name__ == "__main__":
    main()
