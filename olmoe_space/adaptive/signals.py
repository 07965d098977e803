"""Signals of form: code, formula, notation, question form, names and years, conversation.

Each is a pure function of the text; none knows its points. Every pattern is linear: no nested repeats, and
every gap is bounded.
"""

import re

CHATTY_WEIGHT = 0.4

# --- code -----------------------------------------------------------------------------------------------------
_CODE_PATTERNS = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"```|^ {4}\S.{0,80}[;{:)]$",
        r"\b(?:def|class|function|fn|func|struct|interface) \w{1,40} ?[({:<]",
        r"\bSELECT\b[^;]{1,300}?\bFROM\b|\b(?:INSERT INTO|CREATE TABLE|DELETE FROM|ALTER TABLE|GROUP BY)\b",
        r"(?i:\bselect \*|\bselect count\()",
        r"^ ?(?:import|from|#include|using|package|require) ?[\w.<\"'{]{2,60}(?: import\b|;|>|$)",
        r"\b(?:const|let|var|int|float|void|static|public|private) \w{1,40} ?(?:=|\()",
        r"\b[a-z_][\w.]{1,40}\([^()\n]{0,60}\)(?:[;{:.]|$| [=+-])|\b\w{1,30}\(\)",
        r"\bTraceback \(most recent|\b[A-Z]\w{1,30}(?:Error|Exception)\b|^\s{0,8}at [\w.$]{3,80}\(|\bpanic: ",
        r"^\$ \w|\b(?:sudo|chmod|grep|awk|kubectl|docker|git|pip|npm|apt-get|systemctl|curl|ssh) (?:-|\w{1,12} -|\w)",
        r"=>|->|::|==|!=|&&|\|\||\+=|:=|<<|>>|</\w{1,20}>|\+\+;|\[\w{1,12}\]\s?=",
        r"\b[a-z]{2,20}[A-Z][a-z]\w{0,30}\b|\b[A-Za-z]\w{0,30}_\w{1,30}\b",
    )
)
_CODE_CHARACTERS = re.compile(r"[`;{}()=<>$_#*|]|[a-z][A-Z]|[a-z]:\n|\b(?:SELECT|GROUP BY|git|pip|npm|sudo|grep)\b|Error|Exception")


def code(sample: str) -> int:
    """How many kinds of code marks the text has (fences, definitions, SQL, calls, traces, shell, operators)."""
    if not _CODE_CHARACTERS.search(sample):
        return 0
    return sum(1 for pattern in _CODE_PATTERNS if pattern.search(sample))


# --- formula and notation ---------------------------------------------------------------------------------------
_FORMULA_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\\(?:frac|int|sum|sqrt|lim|alpha|beta|gamma|delta|theta|lambda|mathbb|mathcal|partial|begin|left|cdot|to|in)"
        r"\b|\$[^$\n]{0,100}[\\^_=][^$\n]{0,100}\$",
        r"[∫∑∏√∂∇∞≤≥≠≈∈∉⊂⊆∪∩∀∃⇒⊕⊗±∝ℝℕℤℚℂ²³]",
        r"[A-Za-z0-9)\]] ?(?:\^|\*\*) ?[({+-]?[A-Za-z0-9]",
        r"\b(?!(?:a|i|A|I)\b)[a-zA-Z](?:\([a-z]\)|'{1,2})? ?(?:=|<=|>=|≡) ?[-+\w(]",
        r"\b[A-Za-zΘΩ]\((?:[a-z0-9^ ,+*/-]|log){1,16}\)",
        r"(?<![Ͱ-Ͽ])[α-ωΓΔΘΛΞΠΣΦΨΩ](?![Ͱ-Ͽ])",
        r"\b(?:sqrt|sin|cos|tan|log|ln|exp|lim|det|gcd)\(",
        r"\b\d*[a-z] ?[+*/-] ?\d+[a-z]?\b ?=|\bd[yx]/d[xt]\b|\bmod \d+\b",
    )
)
_FORMULA_CHARACTERS = re.compile(r"[\\^=(+*<∫∑∏√∂∇∞≤≥≠≈∈∉⊂⊆∪∩∀∃⇒⊕⊗±∝ℝℕℤℚℂ²³Ͱ-Ͽ]|d[yx]/d|\bmod\b")


def formula(sample: str) -> int:
    """How many kinds of formula marks the text has (LaTeX, symbols, powers, equations, Greek, O(n))."""
    if not _FORMULA_CHARACTERS.search(sample):
        return 0
    return sum(1 for pattern in _FORMULA_PATTERNS if pattern.search(sample))


_ELEMENTS = (
    "He|Li|Be|Ne|Na|Mg|Al|Si|Cl|Ar|Ca|Sc|Ti|Cr|Mn|Fe|Co|Ni|Cu|Zn|Ga|Ge|As|Se|Br|Kr|Rb|Sr|Zr|Nb|Mo|Ag|Cd|Sn|Sb"
    "|Te|Xe|Cs|Ba|Pt|Au|Hg|Pb|Bi|H|B|C|N|O|F|P|S|K|V|I|U"
)
_NOTATION_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        rf"\b(?!PS\d)(?=[A-Za-z()]{{1,12}}\d)(?:(?:{_ELEMENTS})\d{{0,2}}){{2,9}}\b|\b(?:Na|K|Ca|Fe|Cu|H|OH|Cl)\d?[+⁺⁻]"
        r"|\b(?:NaOH|NaCl|HCl|HNO|KOH|HBr|HF|LiCl|KCl)\b",
        r"\d ?(?:k?Ω|[mk]?mol|kPa|MPa|GPa|[kMG]Hz|nm|µm|μm|[kM]?eV|[mk]V|mA|mg/dL|mg/kg|mmHg|mM|rad/s|m/s|kg/m|N·m|J/K"
        r"|kJ|ohms?|volts?|amps?|[µμn]F|kW|dB)\b",
        r"§ ?\d|\b(?:[Aa]rt(?:icle|\.)?|[Ss]ection|[Ss]ec\.) \d+(?:\(\w{1,3}\))?|\b\d+\(\d+\)|\bU\.S\.C\b|\b\w+ v\.? [A-Z]",
        r"[CNO]\([=A-Z]|[cn]1[cn]{2}|C=[CO]|\b[35]'-[ACGTU]{4}|\b[ACGT]{8,}\b",
        r"\b\d{1,3}(?:\.\d{1,3}){3}(?:/\d{1,2})?\b|\b0x[0-9a-fA-F]{2,}|\b[A-Za-z]+\d*/\d+(?:\.\d)?\b",
    )
)


def notation(sample: str) -> int:
    """How many kinds of technical notation: chemical formulas, units, statutes, SMILES and sequences, addresses."""
    return sum(1 for pattern in _NOTATION_PATTERNS if pattern.search(sample))


_ACRONYM = re.compile(r"\b[A-Z][A-Z0-9]{1,5}s?\b")


def acronyms(sample: str) -> list[str]:
    """Distinct acronyms, in lower case; none in a text that shouts."""
    found = set(_ACRONYM.findall(sample))
    if len(found) > 2 and sum(map(str.isupper, sample)) > sum(map(str.islower, sample)):
        return []
    return sorted(a.lower().removesuffix("s") for a in found)


# --- question form -----------------------------------------------------------------------------------------------
_PERSONAL = r"(?!.{0,60}\b(?:i|me|my|you|your|we|us|our|i'm|i've)\b)"
_FORMS = tuple(
    (label, level, re.compile(pattern, re.MULTILINE))
    for label, level, pattern in (
        ("task", 1.0, r"\b(?:prove|derive|compute|calculate|integrate|differentiate|diagonali[sz]e|implement|optimi[sz]e"
         r"|evaluate|refactor|debug|factori[sz]e|simplify|solve for|show that|verify that|analy[sz]e"
         r"|formulate|estimate|contrast|distinguish|critique|interpret|state and)\b"),
        ("explain", 0.8, r"\b(?:explain|describe|discuss|outline|summari[sz]e the|define|compare|difference between"
         r"|differ from|relationship between|significance of|implications of|overview of|advantages|trade-?offs?|vs\.?)\b"),
        ("why", 0.7, rf"(?:^|[.!?\n] ?|\bexplain )why (?:did|do|does|is|are|was|were|can't|can|don't|doesn't){_PERSONAL}"),
        ("how", 0.7, rf"(?:^|[.!?\n] ?|\bexplain )how (?:did|do|does|is|are|was|were|can|many|much|far|long|old|tall|deep|fast|big|high){_PERSONAL}"),
        ("who, when, where, which", 0.8, rf"(?:^|[.!?\n] ?)(?:who|whose|when|where|which|in which|in what|at what)\b{_PERSONAL}"),
        ("what", 0.6, rf"(?:^|[.!?\n] ?)what(?:'s|s)?\b{_PERSONAL}"),
    )
)


def question_form(lowered_sample: str) -> tuple[str, float]:
    """(name, level) of the highest form of question about the world or expert task; ('', 0) where there is none."""
    text = lowered_sample.strip()
    return max(((name, level) for name, level, p in _FORMS if p.search(text)), key=lambda x: x[1], default=("", 0.0))


# --- names and years ----------------------------------------------------------------------------------------------
_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-zà-ÿ'-]+(?: [A-Z][a-zà-ÿ'-]+)?")
_YEAR = re.compile(r"\b(?:1[0-9]{3}|20[0-2][0-9])s?\b|\b\d{1,2}(?:st|nd|rd|th) century\b|\b\d+ ?(?:BC|AD|BCE|CE)\b")


def names(sample: str, everyday: frozenset[str]) -> list[str]:
    """Capitalised words inside a sentence that everyday text does not hold."""
    return [n for n in dict.fromkeys(_NAME.findall(sample)) if n.split()[0].lower() not in everyday]


def years(sample: str) -> int:
    return len(set(_YEAR.findall(sample)))


_EPONYM = re.compile(
    r"\b[A-Z]\w{2,20}(?:[-–][A-Z]\w{2,20})?(?:'s?)? (?:effect|law|theorem|lemma|principle|equation|inequality|algorithm"
    r"|criterion|paradox|syndrome|disease|doctrine|clause|test|model|distribution|method|number|constant|space|transform"
    r"|series|function|integral|group|ring|process|diagram|reaction|cycle|pairs?|scale|index|curve|hypothesis|conjecture"
    r"|filter|bridge|protocol|matrix|operator|potential|statistic)s?\b"
)


def eponyms(sample: str) -> int:
    """How many laws, effects or objects named after someone: `Meissner effect`, `Navier-Stokes equation`."""
    return len(set(_EPONYM.findall(sample)))


# --- conversation -----------------------------------------------------------------------------------------------
PERSONAL = frozenset(
    """my mine myself your yours ur our i'm i've i'd i'll im ive id let's lets thanks thank thx hey hi hello hiya yo bye
    goodnight tonight tomorrow weekend lol haha hmm oh ok okay yeah yep nope wow ugh omg gonna wanna gotta kinda sorry
    feel feeling felt hate tired bored sad happy lonely stressed excited nervous angry upset annoyed mom mum dad sister
    brother wife husband girlfriend boyfriend kid kids son daughter friend friends boss coworker roommate neighbor
    neighbour grandma grandpa aunt uncle nephew niece toddler baby teacher landlord dinner lunch breakfast snack snacks
    recipe cook cooking bake baking meal pizza pasta chicken soup salad cake cookies dessert potatoes tomatoes pancakes
    buy buying shopping shop cheap gift gifts birthday wedding vacation trip restaurant movie movies song playlist
    outfit wear dress shoes shirt jeans haircut hair gym workout puppy kitten pet joke funny bedtime silly nice cute cool
    fun favorite favourite recommend suggest suggestions chat wish hope maybe really apartment garden laundry clean
    cleaning busy invite couch sofa kitchen bedroom fridge polite rude excuse text weird date anniversary""".split()
)
CHATTY = frozenset("i me you we us please can could would should want need like help love ideas tips advice just".split())


def conversation(words: list[str]) -> float:
    """Conversational words: 1 for each of personal life, CHATTY_WEIGHT for each that any request may hold."""
    personal = sum(1 for w in words if w in PERSONAL)
    return personal + CHATTY_WEIGHT * sum(1 for w in words if w in CHATTY)
