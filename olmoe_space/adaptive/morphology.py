"""How technical a word that no list holds looks: by its suffix, its prefix, or its notation.

Suffix and prefix families are those of international scientific vocabulary (Greek and Latin combining forms).
"""

import re

RARE = 0.12  # an unknown word of plain shape
MAX_LENGTH = 40  # a longer word is not judged
LEARNED = 0.45  # a Latinate suffix or a combining prefix
TECHNICAL = 0.9  # a suffix that only technical vocabulary has, or code-like spelling

_TECHNICAL_SUFFIX = re.compile(
    r"\w{2,}(?:olog(?:y|ies|ical|ist)|itis|aemia|emia|ectom(?:y|ies)|[oi]stomy|otomy|plasty|oscop(?:y|ic)"
    r"|ograph(?:y|ic)|pathy|pathic|algia|carcinoma|osis|oses|otic|uria|penia|plegia|trophy|trophic|kinase|ylase"
    r"|idase|erase|[^h]rase|lysis|lytic|philic|phobic|morphi(?:sm|c)|genesis|genic|phage|cyte|cytosis|blast"
    r"|metr(?:y|ic)|nom(?:y|ial)|oxide|chloride|sulfate|phosphate|amide|amine|azole|mycin|cillin|statin|sartan"
    r"|olol|prazole|mab|vir|afil|oxacin|ene|yne|anol|oic|ylic|hedr(?:on|al)|tensor|vector|dynamics|statics"
    r"|theoretic|linear|polynomial|modular|isation|izations?|izable|isable|ility)s?\Z"
)
_LEARNED_SUFFIX = re.compile(
    r"\w{3,}(?:tion|sion|ivity|icity|arity|ality|ics|ism|istic|itive|ative|ational|ential|oid|eous|ferous|gram"
    r"|meter|tropic|tropy|ance|ence|ency|ancy|ator|itor|ular|inal|ical|ase|ose|ine|ium|ate|ite|ide|ify|ize|ise)"
    r"s?\Z"
)
_PREFIX = re.compile(
    r"(?:poly|hyper|hypo|endo|exo|intra|inter|trans|photo|electro|magneto|thermo|hydro|pseudo|quasi|proto|neuro"
    r"|cardio|gastro|nephro|hepato|micro|nano|pico|semi|ultra|homo|hetero|auto|bio|geo|cyto|haemo|hemo|immuno"
    r"|epi|anti|para|peri|retro|stereo|tetra|meta|multi|iso|radio|spectro|chemo|crypto|socio|psycho|patho|osteo"
    r"|dermato|lympho|myo|angio|broncho|pneumo|aero|astro|piezo|ferro|opto|eigen|sub|super|non|uni|bi|de)\w{5,}\Z"
)
_CODE_SPELLING = re.compile(r"[a-z]\w*_\w+\Z|[a-z]+\d+[a-z]+\w*\Z|[a-z][\w-]*\.[a-z]{1,4}\Z")


def weight(word: str) -> float:
    """How technical an unknown lower-case word looks, in [0, 1]; 0 for numbers and short words."""
    if len(word) > MAX_LENGTH:
        return 0.0
    if not word.isalpha():
        if _CODE_SPELLING.match(word):
            return TECHNICAL
        if "-" in word:
            return max(map(weight, word.split("-")))
        return 0.0
    if len(word) < 5 or not word.isascii():
        return 0.0
    if len(word) >= 6 and _TECHNICAL_SUFFIX.match(word):
        return TECHNICAL
    if len(word) >= 8 and _PREFIX.match(word):
        return TECHNICAL if _LEARNED_SUFFIX.match(word) else LEARNED
    if len(word) >= 7 and _LEARNED_SUFFIX.match(word):
        return LEARNED
    return RARE
