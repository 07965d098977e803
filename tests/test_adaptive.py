"""Adaptive k: what it must separate, what it must never do, and that its reasons add up."""

import json
import pickle
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olmoe_space.adaptive import Choice, choose
from olmoe_space.adaptive import lexicon as lexicon_module
from olmoe_space.adaptive.lexicon import EVERYDAY, POPULAR, WORLD, bases, find_terms
from olmoe_space.adaptive.morphology import weight
from olmoe_space.adaptive.text import read, split_words

PROMPTS = Path(__file__).parent / "data" / "adaptive_prompts.tsv"
SMALL_TALK = (
    "hey, so I was thinking about dinner tonight, maybe pizza, because my sister is coming over and she loves it, "
    "and then we could watch a movie or just chat on the couch, what do you think? "
)


def prompts(split: str, tier: str) -> list[str]:
    rows = [line.split("\t") for line in PROMPTS.read_text(encoding="utf-8").splitlines()[1:]]
    return [prompt for row_tier, row_split, prompt, _ in rows if (row_tier, row_split) == (tier, split)]


def auc(low: list[int], high: list[int]) -> float:
    """The chance that a draw of `high` exceeds one of `low`, a tie counting half (Mann-Whitney)."""
    return sum((b > a) + 0.5 * (b == a) for a in low for b in high) / (len(low) * len(high))


def held_out_k(tier: str) -> list[int]:
    return [choose(p).k for p in prompts("held_out", tier)]


@pytest.mark.parametrize(
    ("low", "high", "least"),
    [("everyday", "technical", 0.97), ("general", "technical", 0.93), ("everyday", "general", 0.75)],
)
def test_tiers_are_told_apart(low: str, high: str, least: float) -> None:
    assert auc(held_out_k(low), held_out_k(high)) >= least


def test_tiers_are_told_apart_at_equal_length() -> None:
    def six_to_ten_words(tier: str) -> list[int]:
        return [choose(p).k for p in prompts("held_out", tier) if 6 <= len(p.split()) <= 10]

    everyday, general, technical = map(six_to_ten_words, ("everyday", "general", "technical"))
    assert auc(everyday, technical) >= 0.97
    assert auc(general, technical) >= 0.90
    assert auc(everyday, general) >= 0.75


def test_prompt_data_is_enough_and_unique() -> None:
    counts = {(t, s): len(prompts(s, t)) for t in ("everyday", "general", "technical") for s in ("fit", "held_out")}
    assert all(n >= (150 if split == "fit" else 80) for (_, split), n in counts.items()), counts
    texts = [line.split("\t")[2] for line in PROMPTS.read_text(encoding="utf-8").splitlines()]
    assert len(texts) == len(set(texts))


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        ("Prove that sqrt(2) is irrational", "mathematics"),
        ("differential diagnosis of chest pain", "medicine"),
        ("what is estoppel", "law"),
        ("What does mutex do?", "databases_and_systems"),
        ("How does TCP congestion control work", "networks_and_security"),
    ],
)
def test_short_technical_prompts_go_high_and_name_their_field(prompt: str, field: str) -> None:
    choice = choose(prompt)
    assert choice.k >= 10
    assert choice.field == field


def test_length_does_not_carry_it() -> None:
    assert choose(SMALL_TALK * 20).k < choose("Explain the spectral theorem briefly").k
    assert choose(SMALL_TALK * 20).k <= choose(SMALL_TALK).k + 1


@pytest.mark.parametrize("word", ["nation", "university", "hyper", "vacation", "question", "station", "cooking"])
def test_everyday_words_of_technical_shape_do_not_count(word: str) -> None:
    choice = choose(word)
    assert not choice.terms
    assert not {c.name for c in choice.contributions} & {"terms", "unseen"}


@pytest.mark.parametrize("word", ["glomerulopathy", "quasimonotonicity", "thermostatics", "foo_bar", "hepatoblastoma"])
def test_unknown_words_of_technical_shape_count(word: str) -> None:
    assert weight(word) >= 0.4


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("for (int i = 0; i < n; i++) { total += a[i]; }", "code"),
        ("SELECT id FROM t WHERE x > 3", "code"),
        ("Traceback (most recent call last):\n  ValueError: bad", "code"),
        (r"\int_0^1 x^2 dx", "formula"),
        ("y'' + 4y = 0", "formula"),
        ("why is T(n) = 2T(n/2) + O(n)", "formula"),
        ("balance C6H12O6 + O2", "notation"),
        ("liability under art. 82", "notation"),
        ("a resistor of 4.7 kΩ", "notation"),
        ("the Meissner effect", "eponym"),
    ],
)
def test_signals_of_form(prompt: str, name: str) -> None:
    assert name in {c.name for c in choose(prompt).contributions}


def test_a_multi_word_term_counts_once_and_in_any_number() -> None:
    lexicon = lexicon_module.load()
    words = split_words("two hash tables")
    assert find_terms(words, set(words), lexicon)[0] == ["hash table"]


@pytest.mark.parametrize(
    ("word", "base"),
    [("eigenvalues", "eigenvalue"), ("matrices", "matrix"), ("theories", "theory"), ("hashing", "hash")],
)
def test_bases(word: str, base: str) -> None:
    assert base in bases(word)


def test_terms_are_located_in_the_prompt() -> None:
    prompt = "İ think: Explain Eigenvalues" + " and more" * 2_000 + " of a monoid"
    for term in choose(prompt).terms:
        assert term.start is not None and term.end is not None
        assert prompt[term.start : term.end].lower() == term.term


@pytest.mark.parametrize("prompt", ["", " \n\t", "?!...", "\x00\x01", "\ud800", "\u200f\u202e", "😀🎉", "—"])
def test_a_prompt_without_words_gets_k_min_with_its_reason(prompt: str) -> None:
    choice = choose(prompt, 3, 9)
    assert (choice.k, choice.score) == (3, 0.0)
    assert choice.contributions[0].label == "no words"


@pytest.mark.parametrize(
    "prompt",
    ["¿Qué cocino esta noche?", "今天晚上吃什么?", "Что такое группа Галуа?", "שלום עולם", "ما هو الانتروبيا؟"],
)
def test_other_languages_are_accepted(prompt: str) -> None:
    assert 4 <= choose(prompt).k <= 16


@given(st.text(st.characters(codec=None), max_size=400))
@settings(max_examples=300, deadline=None)
def test_any_text_gives_a_choice_whose_reasons_add_up(prompt: str) -> None:
    check(choose(prompt), prompt)


@given(st.lists(st.sampled_from(" (){}[]=<>$\\^_*/.,;:?!'\"-+0123456789aAbBxXλ∫é\n".strip("\r")), max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_punctuation_gives_a_choice_whose_reasons_add_up(characters: list[str]) -> None:
    prompt = "".join(characters)
    check(choose(prompt), prompt)


def check(choice: Choice, prompt: str) -> None:
    assert round(sum(c.points for c in choice.contributions), 3) == choice.raw_score
    assert choice.score == min(1.0, max(0.0, choice.raw_score))
    assert choice.k == round(choice.k_min + (choice.k_max - choice.k_min) * choice.score)
    assert choice.k_min <= choice.k <= choice.k_max
    assert choose(prompt) == choice
    assert pickle.loads(pickle.dumps(choice)) == choice
    assert json.loads(json.dumps(choice.as_dict())) == choice.as_dict()


@given(st.integers(1, 64), st.integers(1, 64))
@settings(max_examples=50, deadline=None)
def test_k_is_monotone_in_score_for_any_bounds(a: int, b: int) -> None:
    k_min, k_max = sorted((a, b))
    choices = [choose(p, k_min, k_max) for p in prompts("fit", "general")[:20] + prompts("fit", "technical")[:20]]
    by_score = sorted(choices, key=lambda c: c.score)
    assert [c.k for c in by_score] == sorted(c.k for c in choices)
    assert all(k_min <= c.k <= k_max for c in choices)


@pytest.mark.parametrize("value", [0, 65, -1, 3.5, "8", None, True, float("nan")])
def test_bad_bounds_are_refused_with_the_name_and_the_range(value: object) -> None:
    with pytest.raises(ValueError, match=r"k_min.*1 to 64"):
        choose("hello", value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"k_max.*1 to 64"):
        choose("hello", 1, value)  # type: ignore[arg-type]


def test_crossed_bounds_are_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"k_min \(12\) is above k_max \(8\): lower k_min or raise k_max"):
        choose("hello", 12, 8)


@pytest.mark.parametrize("unit", ["a", "(", "$ a ", " ", "_a", "A", "a-", "1.", "x(", "\\", "why ", "Ab ", "é", "\n "])
def test_a_megabyte_does_not_hang(unit: str) -> None:
    choose("warm")
    started = time.perf_counter()
    choose(unit * (1_000_000 // len(unit)))
    assert time.perf_counter() - started < 0.5  # a sanity bound; speed is measured by the benchmarks


def test_the_question_at_the_end_of_a_long_prompt_is_read() -> None:
    prompt = SMALL_TALK * 200 + "What is the Galois group of a cyclotomic extension?"
    assert "galois group" in {t.term for t in choose(prompt).terms}
    assert read(prompt).word_count == pytest.approx(len(prompt.split()), rel=0.05)


def test_lexicon_file_is_well_formed() -> None:
    text = lexicon_module.PATH.read_text(encoding="utf-8")
    assert len(text.encode()) < 600_000
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    rows = [line.split("\t") for line in lines]
    assert all(len(row) == 3 for row in rows)
    terms = [term for term, _, _ in rows]
    assert terms == sorted(set(terms))
    assert all(0 <= float(weight) <= 1 for _, weight, _ in rows)
    assert all(float(weight) == 0 for _, weight, field in rows if field == EVERYDAY)
    technical = Counter(field for _, _, field in rows if field not in (EVERYDAY, WORLD, POPULAR))
    assert len(technical) >= 12
    assert min(technical.values()) >= 200
    assert all(split_words(term) == term.split(" ") for term in terms)
