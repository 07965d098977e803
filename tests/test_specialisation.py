"""Which tokens go to which experts: formulas by hand, the sample's texts, and the tests of the five claims on data in
which it is known what is true."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from olmoe_space.engine.engine import Engine
from olmoe_space.lab.domain_sample import domains, sample_texts
from olmoe_space.lab.insights import group_effect, insights, permutation_test, shuffled, units_of
from olmoe_space.lab.reading import read, read_sample, survey_reply, survey_texts
from olmoe_space.lab.router_analysis import one_hot
from olmoe_space.lab.specialisation import (
    group_shares,
    loyal_tokens,
    position_labels,
    seen_tokens,
    sentences,
    study,
)
from olmoe_space.request import GenerationRequest, Message, RoutingPolicy, SamplingParams
from olmoe_space.survey import Overlap, RoutedText, Survey
from olmoe_space.trace import record

CHOSEN = one_hot(np.array([[[0, 1]], [[0, 2]], [[1, 0]], [[2, 3]]]), 4)  # four tokens, one layer, k = 2


def test_shares_by_hand() -> None:
    share, tokens = group_shares(CHOSEN, np.array([0, 0, 1, -1]), 3)
    assert tokens.tolist() == [2, 1, 0]
    assert share[:, 0].tolist() == [[1, .5, .5, 0], [1, 1, 0, 0], [0, 0, 0, 0]]


def test_loyal_tokens_by_hand() -> None:
    found = loyal_tokens(CHOSEN, np.array([7, 7, 9, 7]), {7: "seven", 9: "nine"}, least=1)
    assert found.pieces == ("seven", "nine") and found.counts.tolist() == [3, 1]
    assert found.best[0, 0].tolist() == [1, 0]  # expert 0: nine always, seven twice in three
    assert found.share[0, 0] == pytest.approx([1, 2 / 3])
    assert found.best[0, 3].tolist() == [0, 1] and found.share[0, 3] == pytest.approx([1 / 3, 0])
    assert loyal_tokens(CHOSEN, np.array([7, 7, 9, 7]), {7: "seven", 9: "nine"}, least=2).pieces == ("seven",)
    assert loyal_tokens(CHOSEN, np.arange(4), {}, least=2).best.shape == (1, 4, 0)


def test_equally_loyal_tokens_are_told_by_how_often_they_stand() -> None:
    chosen = one_hot(np.zeros((5, 1, 1), int), 2)
    assert loyal_tokens(chosen, np.array([4, 5, 5, 6, 6]), {4: "a", 5: "b", 6: "c"}, 1).best[0, 0].tolist() == [1, 2, 0]


@pytest.mark.parametrize(("text", "expected"), [
    ("Why? It is so.\n- a\n", [(5, "question"), (15, "statement"), (19, "list")]),
    ("You need:\n1. a pin\n", [(10, "statement"), (19, "list")]),
    ('"Where to?" she asked. No', [(12, "question"), (23, "statement"), (25, "statement")]),
    ("no mark", [(7, "statement")]), ("\n", [(1, "statement")]),
])
def test_kinds_of_sentences(text: str, expected: list[tuple[int, str]]) -> None:
    assert sentences(text) == expected


def test_code_is_one_piece() -> None:
    assert sentences("if a:\n    b()\n", is_code=True) == [(14, "code")]


def test_places_in_a_text() -> None:
    labels = position_labels(66).tolist()
    assert labels[:5] == [0, 1, 1, 1, 2] and labels[15:17] == [2, 3] and labels[63:] == [3, 4, 4]


def test_the_effect_by_hand() -> None:
    counts = np.array([[[2, 0]], [[0, 2]], [[1, 1]]], dtype=np.float32)  # three units of two tokens, k = 1
    two = np.array([2, 2, 2])
    assert group_effect(counts[:2], two[:2], np.array([0, 1]), 2) == pytest.approx(0.5)  # (1,0) and (0,1) from (½,½)
    assert group_effect(counts, two, np.array([0, 0, 0]), 1) == 0
    # loads (3,1) and (0,2) of (3,3): |.75-.5| and |0-.5|, weighted 4 to 2
    assert group_effect(counts, two, np.array([0, 1, 0]), 2) == pytest.approx((4 * .25 + 2 * .5) / 6)


def test_shuffling_keeps_to_its_stratum() -> None:
    labels, strata = np.array([1, 2, 3, 7, 8, 9]), np.array([0, 0, 0, 5, 5, 5])
    orders = {tuple(shuffled(labels, strata, np.random.default_rng(seed))) for seed in range(20)}
    assert len(orders) > 5 and all(set(o[:3]) == {1, 2, 3} and set(o[3:]) == {7, 8, 9} for o in orders)
    mixed = np.array([0, 5, 0, 5])
    assert set(shuffled(np.array([1, 7, 2, 8]), mixed, np.random.default_rng(0))[::2]) == {1, 2}


def test_units_are_summed() -> None:
    counts, tokens, first = units_of(CHOSEN, np.array([4, 4, 4, 9]))
    assert counts[:, 0].tolist() == [[3, 2, 1, 0], [0, 0, 1, 1]]
    assert tokens.tolist() == [3, 1] and first.tolist() == [0, 3]


def claim(chosen: np.ndarray, unit: np.ndarray, label: np.ndarray) -> Any:
    return permutation_test("it is so", "label", "texts", chosen, unit, label, np.zeros_like(unit))


def test_a_true_claim_is_confirmed_and_a_false_one_refuted() -> None:
    """Thirty texts of twenty tokens, eight experts: half of the texts prefer the first four. Within a text all tokens
    go to the same two, so that a test which took tokens for witnesses would confirm anything."""
    rng = np.random.default_rng(1)
    unit, domain = np.repeat(np.arange(30), 20), np.repeat(np.arange(30) % 2, 20)
    pairs = np.array([rng.choice(4, 2, replace=False) + 4 * (i % 2) for i in range(30)])
    chosen = one_hot(np.repeat(pairs, 20, 0)[:, None], 8)
    true = claim(chosen, unit, domain)
    assert true.verdict == "confirmed" and true.effect == pytest.approx(0.5) and true.p == 0.01
    assert true.control < 0.35 and true.units == 30
    false = claim(chosen, unit, np.repeat(rng.permutation(30) % 2, 20))
    assert false.verdict.startswith("refuted") and false.effect <= false.highest
    assert claim(chosen, unit, 0 * unit).verdict.startswith("not measured")


def test_the_sample_is_whole() -> None:
    assert domains() == ("code", "dialogue", "math", "programming", "science", "stories", "web")
    texts = {name: sample_texts(name) for name in domains()}
    assert all(len(t) >= 16 and len({s.text for s in t}) == len(t) for t in texts.values())
    topics = [s.topic for s in texts["web"]]
    assert {topic: topics.count(topic) for topic in set(topics)} == {"technology": 8, "history": 8, "arts": 8}
    with pytest.raises(ValueError, match="one of code"):
        sample_texts("../olmoe-tiny")


def routed(text: str, domain: str, topic: str = "", seed: int = 0, layers: int = 2) -> RoutedText:
    """A token a character, routed at random among six experts."""
    rng = np.random.default_rng(seed)
    chosen = rng.permuted(np.tile(np.arange(6), (len(text), layers, 1)), axis=-1)[..., :2].astype(np.uint8)
    return RoutedText(text, domain, topic, np.array([ord(c) for c in text]), tuple(text), np.arange(1, len(text) + 1),
                      chosen)


def test_every_token_is_labelled() -> None:
    seen = seen_tokens([routed("Is it? No.", "web", "arts"), routed("a = 1", "code")])
    assert seen.domains == ("web", "code") and seen.topics == ("arts",)
    assert seen.kind.tolist() == [0] * 7 + [1] * 3 + [3] * 5 and seen.sentence.tolist() == [0] * 7 + [1] * 3 + [2] * 5
    assert seen.topic.tolist() == [0] * 10 + [-1] * 5 and seen.position[:5].tolist() == [0, 1, 1, 1, 2]


def test_a_study_of_chance_refutes_all_five() -> None:
    texts = [routed(f"Is it so {i}? It is, they say.\n- or so\nIt is. " * 3, domain, topic, seed=i)
             for i, (domain, topic) in enumerate([("web", "arts"), ("web", "history"), ("math", ""), ("code", "")] * 6)]
    told = study(texts, 6)
    assert told.uniform == pytest.approx(1 / 3) and told.texts == 24
    for shares in told.shares:
        assert shares.share[shares.tokens > 0].sum(-1) == pytest.approx(2)
    assert [i.verdict for i in told.insights] == ["refuted here: no more than chance"] * 5
    assert all(0.01 <= i.p <= 1 and i.control == pytest.approx(i.effect, abs=0.05) for i in told.insights)
    assert pickle.loads(pickle.dumps(told)).loyal.pieces == told.loyal.pieces


def test_a_part_of_the_sample_says_what_it_could_not_measure() -> None:
    told = study([routed("Two. " * 30, "web", "arts")], 6)
    verdicts = [i.verdict.startswith("not measured") for i in told.insights]
    assert verdicts == [True, False, False, True, True]
    assert not study([routed("Two.", "web")], 6, with_insights=False).insights
    with pytest.raises(ValueError, match="No text"):
        study([], 6)


def test_reading_again_is_what_the_chat_did(plain_olmoe: Any, tokenizer: Any) -> None:
    engine, policy = Engine(plain_olmoe, tokenizer), RoutingPolicy(5)
    request = GenerationRequest((Message("user", "Why is it?"),), SamplingParams(0, 1, 6, 0), policy)
    chat = record(engine.stream(request))
    again = read(engine, chat.token_ids.tolist(), policy, chat.prompt_tokens)
    assert (again.expert_counts("decode") == chat.expert_counts("decode")).all()
    assert np.allclose(again.router_logits, chat.router_logits, atol=1e-4)
    ids, at = chat.token_ids.tolist(), chat.prompt_tokens
    (told,) = survey_reply(engine, ids[:at], ids[at:], policy, "the reply")
    assert told.counts.sum() == 6 * 3 * 5 and (told.counts == chat.expert_counts("decode")).all()


def test_two_texts_are_surveyed_and_compared(plain_olmoe: Any, tokenizer: Any) -> None:
    engine = Engine(plain_olmoe, tokenizer)
    first, second, overlap = survey_texts(engine, [("a", "Two words"), ("b", "Other ones, more")], RoutingPolicy(4))
    assert isinstance(first, Survey) and isinstance(second, Survey) and isinstance(overlap, Overlap)
    assert len(second.pieces) == 16 and overlap.divergence.shape == (3,) and (overlap.divergence > 0).all()
    *_, same = survey_texts(engine, [("a", "Two words"), ("b", "Two words")], RoutingPolicy(4))
    assert same.divergence.tolist() == [0, 0, 0]
    for text, said in (("", "empty"), ("x" * 600, "600 tokens")):
        with pytest.raises(ValueError, match=said):
            list(survey_texts(engine, [("a", text)], RoutingPolicy(4)))


def test_the_embedded_model_reads_a_domain(olmoe_tiny: Any) -> None:
    texts = list(read_sample(Engine(*olmoe_tiny), "code", RoutingPolicy(8)))
    assert [t.text for t in texts] == [s.text for s in sample_texts("code")]
    assert all(t.selected_experts.shape == (len(t.token_ids), 16, 8) for t in texts)
    assert all(t.ends[-1] == len(t.text) for t in texts)
    found = list(insights(one_hot(texts[0].selected_experts, 64), seen_tokens(texts[:1])))
    assert len(found) == 5
