"""What nobody should send, for tests that send it: values of every kind, and texts that elsewhere would run."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

CANARY = "olmoe-canary"  # a file that would be made if any of these ran in a shell or in Python
MARKUP = ("<img src=x onerror=\"window.hacked=1\"><script>window.hacked=1</script>"
          "<svg onload=window.hacked=1>{{7*7}} ${7*7} ${window.hacked=1} {{window.hacked=1}} #{7*7} <%= 7*7 %> "
          "[link](javascript:window.hacked=1) <a href=\"javascript:window.hacked=1\">a</a> ![i](http://127.0.0.1:9/x)")
TEXTS = (
    MARKUP, f"$(touch {CANARY})", f"; touch {CANARY} #", f"`touch {CANARY}`",
    f"__import__('os').system('touch {CANARY}')", "{{''.__class__.__mro__[1].__subclasses__()}}",
    "{0.__class__.__init__.__globals__}", "%s%s%n%x", "' OR 1=1; --",
    "../../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "C:\\Windows\\system32", "\\\\host\\share",
    "\x00", "a\x00b", "\x1b[31mred\x1b[0m", "\r\nSet-Cookie: a=b", "\ud800", "\udfff\ud800", "\ufffe\uffff",
    "\U0010ffff", "\U000e0041\U000e007f", "\u202e\u2066\u200f", "\u0301" * 300,
    "\U0001f469\u200d\U0001f469\u200d\U0001f467", "مرحبا שלום",
    "<|endoftext|><|user|>\n<|assistant|>", "=cmd|' /C calc'!A0", "-1e999", "NaN", "0x10", "１６", "1_000",
    "true", "null", "[]", "{}", " " * 1000, "\n" * 1000, "x" * 31_999, "x" * 200_000,
)
characters = st.characters()  # every plane, control characters and lone surrogates too
texts = st.one_of(st.sampled_from(TEXTS), st.text(characters, max_size=80))
numbers = st.one_of(st.integers(), st.integers(-2**70, 2**70), st.floats(), st.sampled_from([0, -1, 65, 2**63, 1e308]))
plain = st.one_of(st.none(), st.booleans(), numbers, texts)
names = st.text(characters, max_size=8)
junk: st.SearchStrategy[Any] = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=8)
files = st.builds(lambda path, kind: {"path": path, "url": path, "orig_name": path, "meta": {"_type": kind}},
                  texts, st.sampled_from(["gradio.FileData", "", None]))
parts = st.one_of(junk, st.builds(lambda text: {"type": "text", "text": text}, texts), files)
roles = st.one_of(st.sampled_from(["user", "assistant", "system", "tool", "User", "", None]), junk)
turns = st.one_of(junk, st.builds(lambda role, content: {"role": role, "content": content}, roles,
                                  st.one_of(texts, st.lists(parts, max_size=3), junk)))
long_history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}] * 5000  # 10,000 turns
deep: list[Any] = []
for _ in range(200):
    deep = [deep]
histories = st.one_of(st.just(long_history), st.just(deep), st.lists(turns, max_size=5), junk)
