"""What of a prompt is read, and its words.

Reads at most HEAD + TAIL characters, so a megabyte costs what a few pages cost. Knows nothing of terms or k.
"""

import re
from dataclasses import dataclass

HEAD = 1_500  # characters read from the start: about 260 words
TAIL = 700  # characters read from the end of a longer prompt, where the question often stands
SAMPLE_HEAD, SAMPLE_TAIL = 800, 300  # the part that the pattern signals read

_CURLY = (("’", "'"), ("‘", "'"), ("“", '"'), ("”", '"'), ("—", " "), ("…", " "))  # one character for one
_PUNCTUATION = str.maketrans(dict.fromkeys(',;:!?()[]{}"<>|=*`\\~^@$' + "".join(map(chr, range(32))), " "))
_WORD = re.compile(r"[\w'./+#&-]+")
_EDGES = ".'-/_&"


@dataclass(frozen=True, slots=True)
class Text:
    """The read part of a prompt: as written, in lower case (same length), and as lower-case words."""

    original: str
    lowered: str
    words: list[str]
    word_count: int  # of the whole prompt; estimated where it is not read whole
    skipped: int  # characters left out between head and tail
    head: int  # index in `original` where the tail begins

    def offset(self, index: int) -> int:
        """Index in the read part -> index in the prompt."""
        return index if index < self.head else index + self.skipped

    @property
    def sample(self) -> str:
        """The part that pattern signals read."""
        text = self.original
        if len(text) <= SAMPLE_HEAD + SAMPLE_TAIL:
            return text
        return text[:SAMPLE_HEAD] + "\n" + text[-SAMPLE_TAIL:]


def read(prompt: str) -> Text:
    """Cut a prompt to what is read and part it into words."""
    skipped = max(0, len(prompt) - HEAD - TAIL)
    original = prompt if not skipped else prompt[:HEAD] + prompt[-TAIL:]
    if not original.isascii():
        for curly, plain in _CURLY:
            original = original.replace(curly, plain)
    lowered = lower(original)
    words = split_words(lowered)
    share = len(prompt) / len(original) if skipped else 1
    return Text(original, lowered, words, round(len(words) * share), skipped, HEAD if skipped else len(original))


def lower(text: str) -> str:
    """Lower case, one character for one, so that indices stay valid ('İ' alone would grow)."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def split_words(lowered: str) -> list[str]:
    """Words keep inner hyphens, dots, slashes and apostrophes: `p-value`, `node.js`, `tcp/ip`, `c++`."""
    if lowered.isascii():
        words = lowered.replace(". ", " ").translate(_PUNCTUATION).split()
    else:
        words = _WORD.findall(lowered)
    stripped = {w: w.strip(_EDGES) for w in set(words) if w[-1] in _EDGES or w[0] in _EDGES}
    if not stripped:
        return words
    return [w for w in map(stripped.get, words, words) if w]
