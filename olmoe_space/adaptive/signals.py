"""Signals of form: code, formula, notation, question form, names and years, conversation.

Each is a function of the text alone and knows nothing of points. Every repeat in a pattern is bounded, and a
pattern runs only where one of its marks (plain substrings) occurs, so each is linear and mostly free.
"""

import re
from collections.abc import Iterable

CHATTY_WEIGHT = 0.4
QUESTIONS_READ = 8  # sentences from the start, and as many from the end, that may hold the question

_Marked = tuple[tuple[str, ...], re.Pattern[str]]


def _kinds(text: str, patterns: Iterable[_Marked]) -> int:
    """How many of the patterns the text matches."""
    return sum(1 for marks, pattern in patterns if any(m in text for m in marks) and pattern.search(text))


# --- code -----------------------------------------------------------------------------------------------------
_OPERATORS = ("=>", "->", "::", "==", "!=", "&&", "||", "+=", ":=", "</", "++;", "();", "```")
_CODE: tuple[_Marked, ...] = tuple(
    (marks, re.compile(pattern, re.MULTILINE))
    for marks, pattern in (
        (("    ",), r"^ {4}\S[^\n]{0,80}[;{:)]$"),
        (("def ", "class ", "function ", "fn ", "func ", "struct ", "interface "),
         r"\b(?:def|class|function|fn|func|struct|interface) \w{1,40} ?[({:<]"),
        (("SELECT", "INSERT", "CREATE TABLE", "DELETE FROM", "ALTER TABLE", "GROUP BY", "ORDER BY"),
         r"\bSELECT\b[^;]{1,200}\bFROM\b|\b(?:INSERT INTO|CREATE TABLE|DELETE FROM|ALTER TABLE|GROUP BY|ORDER BY)\b"),
        (("import ", "#include", "using "), r"^ ?(?:import|from|#include|using) ?[\w.<\"]{2,40}(?: import\b|;|>|$)"),
        (("const ", "let ", "var ", "int ", "float ", "void ", "static ", "public ", "private "),
         r"\b(?:const|let|var|int|float|void|static|public|private) \w{1,40} ?(?:=(?!=)|\()"),
        (("(",), r"(?<=\w)\((?!s\))(?:[^()\n]{0,60}\)(?:[;{:.]|$| [=+-])|\))"),
        (("Traceback", "Error", "Exception", "panic: ", "    at "),
         r"Traceback \(most|\b[A-Z]\w{1,30}(?:Error|Exception)\b|^ {0,8}at [\w.$]{3,80}\(|panic: "),
        (("$ ", "sudo ", "chmod ", "grep ", "kubectl ", "docker ", "git ", "pip ", "npm ", "apt-get ", "curl ", "ssh "),
         r"^\$ \w|\b(?:sudo|chmod|grep|kubectl|docker|git|pip|npm|apt-get|curl|ssh) (?:-\w|\w{1,12} -|\w)"),
        (("_",), r"\b[A-Za-z]\w{0,30}_\w{1,30}\b"),
        (("[",), r"\w\[[\w:+-]{1,12}\]"),
    )
)  # fmt: skip
_CAMEL_CASE = re.compile(r"(?<=[a-z]{2})[A-Z][a-z]")


def code(sample: str) -> int:
    """How many kinds of code marks the text has: definitions, SQL, calls, traces, shell, operators, spelling."""
    operators = any(o in sample for o in _OPERATORS)
    return _kinds(sample, _CODE) + operators + bool(_CAMEL_CASE.search(sample))


# --- formula and notation ---------------------------------------------------------------------------------------
_SYMBOL = re.compile(r"[∫∑∏√∂∇∞≤≥≠≈∈∉⊂⊆∪∩∀∃⇒⊕⊗±∝ℝℕℤℚℂ²³]")
_GREEK = re.compile(r"(?<![Ͱ-Ͽ])[α-ωΓΔΘΛΞΠΣΦΨΩ](?![Ͱ-Ͽ])")
_FORMULA: tuple[_Marked, ...] = tuple(
    (marks, re.compile(pattern))
    for marks, pattern in (
        (("\\", "$"), r"\\(?:frac|int|sum|sqrt|lim|alpha|beta|gamma|delta|theta|lambda|math\w{2,4}|partial|begin|left"
         r"|cdot|to|in)\b|\$[^$\n]{0,60}[\\^_=][^$\n]{0,60}\$"),
        (("^", "**"), r"[A-Za-z0-9)\]] ?(?:\^|\*\*) ?[({+-]?[A-Za-z0-9]"),
        (("=", "≡", "''"),
         r"(?<![a-zA-Z'])(?![aiAI]\b)[a-zA-Z](?:\([a-z]\)|'{1,2})? ?[<>≡]?= ?[-+\w(]|\b[a-z]'{2,3} ?[-+=(]"),
        (("(",), r"\b[A-Za-zΘΩ]\((?:[a-z0-9^ ,+*/-]|log){1,16}\)|\b(?:sqrt|sin|cos|tan|log|ln|exp|lim|det|gcd)\("),
        (("dx", "dy/", "mod ", "->", "+", "*"),
         r"\bd[yx]/d[xt]\b|\bmod \d|\bdx\b|\b[a-z] ?-> ?[0-9a∞]|\b\d{0,4}[a-z] ?[+*] ?\d{1,4}[a-z]?\b"),
    )
)  # fmt: skip


def formula(sample: str) -> int:
    """How many kinds of formula marks the text has: LaTeX, powers, equations, f(x), sums, symbols, lone Greek."""
    kinds = _kinds(sample, _FORMULA)
    if not sample.isascii():
        kinds += bool(_SYMBOL.search(sample)) + bool(_GREEK.search(sample))
    return kinds


_DIGITS = tuple("0123456789")
_DIGIT = re.compile(r"\d")
_ELEMENTS = (
    "He|Li|Be|Ne|Na|Mg|Al|Si|Cl|Ar|Ca|Sc|Ti|Cr|Mn|Fe|Co|Ni|Cu|Zn|Ga|Ge|As|Se|Br|Kr|Rb|Sr|Zr|Nb|Mo|Ag|Cd|Sn|Sb"
    "|Te|Xe|Cs|Ba|Pt|Au|Hg|Pb|Bi|H|B|C|N|O|F|P|S|K|V|I|U"
)
_ADDRESS = re.compile(r"\d(?:\.\d{1,3}){3}\b|\b0x[0-9a-fA-F]{2,}")
_CHEMICAL = re.compile(rf"\b(?!PS\d|CO2\b)(?=[A-Za-z()]{{1,12}}\d)(?:(?:{_ELEMENTS})\d{{0,2}}){{2,9}}\b")
_NOTATION: tuple[_Marked, ...] = tuple(
    (marks, re.compile(pattern))
    for marks, pattern in (
        (("+", "⁺", "⁻", "OH", "Cl", "HNO", "HBr"), r"\b(?:Na|K|Ca|Fe|Cu|H)\d?[+⁺]|\b(?:NaOH|NaCl|HCl|HNO|KOH|HBr)"),
        (_DIGITS, r"\d ?(?:k?Ω|[mk]?mol|[kMG]Pa|[kMG]Hz|[nµμ]m|[kM]?eV|[mk]V|mA|m[gM]/[dk][Lg]|mmHg|mM|rad/s|m/s|kg/m"
         r"|N·m|J/K|kJ|mH|ohms?|volts?|amps?|[µμnp]F|kW|dB)\b"),
        (("§", "rt. ", "rticle ", "ection ", "ec. "), r"§ ?\d|\b(?:[Aa]rt(?:icle|\.)|[Ss]ection|[Ss]ec\.) \d{1,4}\b"),
        (("(",), r"\d\(\d{1,3}\)"),
        ((" v. ", " vs. ", "U.S.C"), r"[A-Z]\w{1,30} vs?\. [A-Z]|U\.S\.C"),
        (("=O", "=C", "c1c", "5'-", "AT", "CG", "GC", "TA"),
         r"[CNO]\([=A-Z]|[cn]1[cn]{2}|C=[CO]|[35]'-[ACGTU]{4}|\b[ACGT]{8,}\b"),
    )
)  # fmt: skip


def notation(sample: str) -> int:
    """How many kinds of technical notation: chemical formulas, units, statutes, SMILES and sequences, addresses."""
    numbered = _with_digits(sample)
    return _kinds(sample, _NOTATION) + bool(_ADDRESS.search(numbered)) + bool(_CHEMICAL.search(numbered))


def _with_digits(sample: str) -> str:
    """The text's tokens that hold a digit."""
    if not any(d in sample for d in _DIGITS):
        return ""
    return " ".join([w for w in sample.split() if not w.isalpha() and _DIGIT.search(w)])


_ACRONYM = re.compile(r"\b[A-Z][A-Z0-9]{1,5}(?=s?\b)")


def acronyms(sample: str) -> list[str]:
    """Distinct acronyms, in lower case; none in a text that shouts."""
    found = set(_ACRONYM.findall(sample))
    if len(found) > 2 and 3 * sum(map(len, found)) > sum(map(str.islower, sample)):
        return []
    return sorted(map(str.lower, found))


_EPONYM = re.compile(
    r"\b[A-Z]\w{2,20}(?:[-–][A-Z]\w{2,20})?(?:'s?)? (?:effect|law|theorem|lemma|principle|equation|inequality|algorithm"
    r"|criterion|paradox|syndrome|disease|doctrine|clause|test|model|distribution|method|number|constant|space|transform"
    r"|series|function|integral|group|ring|process|diagram|reaction|cycle|pair|scale|index|curve|hypothesis|conjecture"
    r"|filter|bridge|protocol|matrix|operator|potential|statistic)s?\b"
)


def eponyms(sample: str) -> int:
    """How many laws, effects or objects named after someone: `Meissner effect`, `Navier-Stokes equation`."""
    return len(set(_EPONYM.findall(sample)))


# --- question form -----------------------------------------------------------------------------------------------
_TASKS = frozenset(
    """prove derive compute calculate integrate differentiate diagonalize diagonalise implement optimize optimise
    evaluate refactor debug factorize factorise simplify solve verify analyze analyse formulate estimate contrast
    distinguish critique interpret""".split()
)
_EXPLAIN = frozenset("explain describe discuss outline summarize summarise define compare difference differ vs".split())
_PERSONAL = r"(?![^\n]{0,60}\b(?:i|me|my|you|your|we|us|our|i'm|i've)\b)"
_QUESTION = re.compile(
    r"(?:in |at |on |and |so |but )?(?:"
    r"(?P<why>why (?:did|do|does|is|are|was|were|can't|can|don't|doesn't)\b)"
    r"|(?P<how>how (?:did|do|does|is|are|was|were|can|many|much|far|long|old|tall|deep|fast|big|high)\b)"
    r"|(?P<who>who|whose|when|where|which)\b|(?P<what>what(?:'s|s)?)\b)" + _PERSONAL
)
_SENTENCE_END = re.compile(r"[.!?\n]+[ \n]*")
LEVELS = {"task": 1.0, "explain": 0.8, "who": 0.8, "why": 0.7, "how": 0.7, "what": 0.6}


def question_form(sample: str, words: set[str]) -> str:
    """The form of an expert task or of a question about the world, the highest of LEVELS; '' where there is none.

    A question about oneself (`how do I`, `what is your`) is none.
    """
    if words & _TASKS:
        return "task"
    if words & _EXPLAIN:
        return "explain"
    sentences = _SENTENCE_END.split(sample.lower().lstrip())
    sentences = sentences[:QUESTIONS_READ] + sentences[QUESTIONS_READ:][-QUESTIONS_READ:]
    forms = {m.lastgroup for s in sentences if (m := _QUESTION.match(s))}
    return max((f for f in forms if f), key=lambda f: (LEVELS[f], f), default="")


# --- names and years ----------------------------------------------------------------------------------------------
_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-zà-ÿ'-]+(?: [A-Z][a-zà-ÿ'-]+)?")
_YEAR = re.compile(r"\b(?:1[0-9]{3}|20[0-2][0-9])s?\b")
_ERAS = (" century", " BC", " AD", " CE")


def names(sample: str, everyday: frozenset[str]) -> int:
    """How many capitalised words inside sentences that everyday text does not hold."""
    return sum(1 for name in set(_NAME.findall(sample)) if name.split()[0].lower() not in everyday)


def years(sample: str) -> int:
    """How many years and centuries."""
    return len(set(_YEAR.findall(_with_digits(sample)))) + sum(era in sample for era in _ERAS)


# --- conversation -----------------------------------------------------------------------------------------------
PERSONAL = frozenset(
    """my mine myself your yours ur our i'm i've i'd i'll im ive id let's lets thanks thank thx hey hi hello hiya yo bye
    goodnight tonight tomorrow weekend lol haha hmm oh ok okay yeah yep nope wow ugh omg gonna wanna gotta kinda sorry
    feel feeling felt hate tired bored sad happy lonely stressed excited nervous angry upset annoyed mom mum dad sister
    brother wife husband girlfriend boyfriend kid kids son daughter friend friends boss coworker roommate neighbor
    neighbour grandma grandpa aunt uncle nephew niece toddler baby teacher landlord dinner lunch breakfast snack snacks
    recipe cook cooking bake baking meal pizza pasta chicken soup salad cake cookies dessert potatoes tomatoes pancakes
    buy buying shopping shop cheap gift gifts birthday wedding vacation trip restaurant movie movies song playlist
    outfit wear dress shoes shirt jeans haircut hair gym workout puppy kitten pet joke funny bedtime silly nice cute
    cool fun favorite favourite recommend suggest suggestions chat wish hope maybe really apartment garden laundry clean
    cleaning busy invite couch sofa kitchen bedroom fridge polite rude excuse text weird date anniversary""".split()
)
CHATTY = frozenset(
    "i me you we us please can could would should want need like help love ideas tips advice just".split()
)


def conversation(counts: dict[str, int]) -> float:
    """Conversational words: 1 for each of personal life, CHATTY_WEIGHT for each that any request may hold."""
    personal = sum(counts[w] for w in counts.keys() & PERSONAL)
    return personal + CHATTY_WEIGHT * sum(counts[w] for w in counts.keys() & CHATTY)
