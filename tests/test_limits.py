"""Bearer tokens and their limits, on a clock that stands still until it is set."""

from __future__ import annotations

import pytest

from olmoe_space.scale.errors import Refused
from olmoe_space.scale.limits import Caller, Callers
from olmoe_space.settings import ApiKey, from_environment


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def refusal(caller: Caller) -> Refused:
    with pytest.raises(Refused) as refused:
        caller.admit()
    assert refused.value.status == 429 and refused.value.code == "rate_limit_exceeded"
    return refused.value


def test_so_many_requests_within_any_minute() -> None:
    clock = Clock()
    caller = Caller(ApiKey("a", requests_per_minute=2), clock)
    caller.admit()
    clock.now += 20
    caller.admit()
    clock.now += 10.5
    refused = refusal(caller)
    assert refused.headers == {"Retry-After": "30"} and "2 requests a minute" in refused.message  # 29.5, rounded up
    clock.now += 29.5
    caller.admit()  # the first is a minute old
    assert refusal(caller).retry_after_s == 20


def test_a_refused_request_does_not_count() -> None:
    clock = Clock()
    caller = Caller(ApiKey("a", requests_per_minute=1), clock)
    caller.admit()
    for _ in range(3):
        clock.now += 19
        refusal(caller)
    clock.now += 3
    caller.admit()


def test_tokens_count_when_a_request_has_ended() -> None:
    clock = Clock()
    caller = Caller(ApiKey("a", tokens_per_minute=100), clock)
    caller.admit()
    caller.admit()
    caller.used(60)
    caller.admit()
    clock.now += 15
    caller.used(70)
    assert refusal(caller).headers == {"Retry-After": "45"}  # then 70 are left of 130
    clock.now += 45
    caller.admit()
    caller.used(100)
    assert refusal(caller).type == "tokens"


def test_one_reply_larger_than_the_limit_is_waited_out() -> None:
    clock = Clock()
    caller = Caller(ApiKey("a", tokens_per_minute=100), clock)
    caller.used(1)
    caller.used(500)
    caller.used(1)
    assert refusal(caller).retry_after_s == 60


def test_each_key_has_limits_of_its_own() -> None:
    clock = Clock()
    callers = Callers((ApiKey("a", 1), ApiKey("b", 1), ApiKey("c")), clock)
    for token in "ab":
        callers.who(f"Bearer {token}", "192.0.2.1").admit()
        refusal(callers.who(f"bearer {token}", "192.0.2.2"))
    for _ in range(100):
        callers.who("Bearer c", None).admit()


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic secret", "secret", "Bearer secre",
                                    "Bearer secret2", "Bearer s\xe9cret", "Bearer \u20ac", "Bearer \udcff"])
def test_wrong_tokens(header: str | None) -> None:
    with pytest.raises(Refused) as refused:
        Callers((ApiKey("secret"),)).who(header, "127.0.0.1")
    assert refused.value.status == 401 and refused.value.headers == {"WWW-Authenticate": "Bearer"}
    assert "secre" not in refused.value.message


@pytest.mark.parametrize(("address", "answered"), [("127.0.0.1", True), ("::1", True), ("192.0.2.1", False),
                                                   ("10.0.0.2", False), (None, False)])
def test_without_keys_this_machine_alone(address: str | None, answered: bool) -> None:
    callers = Callers(())
    if answered:
        callers.who(None, address).admit()
        callers.who("Bearer whatever", address).admit()
    else:
        with pytest.raises(Refused, match="OLMOE_API_KEYS"):
            callers.who("Bearer whatever", address)


def test_keys_from_the_environment() -> None:
    keys = from_environment({"OLMOE_API_KEYS": " one, two:30 ,three:30:2000,four::2000,"}).api_keys
    assert keys == (ApiKey("one"), ApiKey("two", 30), ApiKey("three", 30, 2000), ApiKey("four", None, 2000))
    assert from_environment({}).api_keys == () and from_environment({"OLMOE_API_KEYS": " "}).api_keys == ()


@pytest.mark.parametrize("text", ["swordfish:0", "swordfish:many", "swordfish:-1", "swordfish:1:2:3", ":3",
                                  "sword fish", "swordfish,swordfish:3"])
def test_keys_that_cannot_be_are_refused_without_telling_them(text: str) -> None:
    with pytest.raises(ValueError, match="OLMOE_API_KEYS") as refused:
        from_environment({"OLMOE_API_KEYS": text})
    assert "fish" not in str(refused.value)


def test_no_secret_is_in_a_repr() -> None:
    settings = from_environment({"OLMOE_API_KEYS": "swordfish:3", "OLMOE_ENGINE_KEY": "halibut"})
    assert settings.engine_key == "halibut"
    assert "fish" not in repr(settings) and "halibut" not in repr(settings)
