r"""Borders of a text: the places at which people let an answer start or end.

A place is a border unless it is inside of

- a grapheme cluster, what a reader sees as one character (Unicode Standard Annex 29): a letter with its marks, a
  syllable of jamo, an emoji with joiners and skin tone, a flag, \r\n. ``\X`` of the package regex is exact from any
  place: it looks back as far as it has to.
- a number, as _NUMBER has it: ``7,000`` of ``7,000,000`` is a wrong sum.

What is one number follows 200,000 gold answers (tests/benchmarks/borders.py): of SQuAD 1.1 dev, CMRC 2018, CUAD, TimeQA
and training sets in SQuAD's layout. Of those that touch such a place, this share starts or ends there: between digits
0.2 %, at the separators of a number 0.5 %, before st, bn or s (``1980s``) 1 %, before ``million`` 1 %, after a sign 4
of 72, in dates such as ``2024-11-25`` and before 万 none. But people do cut ranges (``1939–45``, 5 %), currencies
(``$5``, 5 %) and units (``5 °C``, 11 %; ``20%``, 10 %): those are not one number. Of all gold answers 0.1 % would be
widened, most of them mistakes (``15,600`` of which ``15`` is marked); none cuts a grapheme cluster.
"""

import regex

MAX_UNIT_CHARS = 64
"""A longer cluster is noise, a longer number a list or a row of a table: they may be cut, or answers had no limit."""

_GRAPHEME = regex.compile(r"\X")

_CHINESE = "〇零一二三四五六七八九十百千万亿億萬兆两兩壹贰貳叁參肆伍陆陸柒捌玖拾佰仟"
_MYRIADS = "[十百千万亿億萬兆십백천만억조]"  # 7000万, 7000만

_BETWEEN = rf"""(?:
    [.,:'’/·_٫٬．：⁄]                             # 7,000,000  1.5  12:30  5'8  1/2  25.11.2024
  | ，(?=\p{{Nd}}{{3}}(?!\p{{N}}))                 # also the comma of Chinese sentences
  | [eE^][-−+]?                                  # 1e-5, 10^6
  | \s?×\s?(?=10(?!\p{{N}}))                       # 5 × 10^6
  | [ ](?=\p{{N}}{{1,2}}/\p{{N}}{{1,2}}(?![\p{{N}}/]))  # 5 1/2
  | \p{{Latin}}{{1,3}}                             # H1N1, 2x4
  | {_MYRIADS}{{1,4}}                              # 3万5000
)"""

_DIGITS = r"""(?:
    # 1 000 000 with no-break spaces
    (?<!\p{N}[\u00a0\u2007\u2009\u202f]) \p{Nd}{1,3} (?:[\u00a0\u2007\u2009\u202f] \p{Nd}{3})+ (?!\p{N})
    # with plain spaces, if it is no row of a table, nor a name such as R9 390
  | (?<![\p{Latin}.,'-]|\p{N}\s) (?!0) \p{Nd}{1,3} (?:[ ]\p{Nd}{3})+ (?![\p{N}-]|\s\p{N})
  | (?<!\p{N}-) \p{N}+ (?:-\p{N}+){2,}           # 2024-11-25, 555-010-9999; two are a range: each is a whole number
  | \p{N}+                                       # of all scripts; 2½, 10⁶
)"""

_NUMBER = regex.compile(
    rf"""
    (?=\p{{N}}) (?<! \p{{N}} | \p{{N}}{_BETWEEN})
    {_DIGITS} (?: {_BETWEEN} {_DIGITS} )*
    (?: \p{{Latin}}{{1,3}}(?!\p{{Latin}}) | {_MYRIADS}{{1,4}} )?  # 1980s, 5th, 7bn
    (?: [ \u00a0](?i:hundred|thousand|lakh|crore|million|billion|trillion)(?!\p{{Latin}}) )?
  | (?=[{_CHINESE}]) (?<![{_CHINESE}]) [{_CHINESE}]{{2,}}  # 七百万
    """,
    regex.VERBOSE,
)
_BEFORE_NUMBER = regex.compile(
    r"""(?r)
    (?: §{1,2}\s? )?  # § 8.2
    (?: (?<![\p{L}\p{N}\p{Pe}\p{Pf}%'"+−–±－＋-]|\p{N}\s) [-−–+±－＋] \p{Sc}? )?  # -5, -$7,000, but not 1939 –45
    (?: (?<![\p{Latin}\p{N}.])\. | (?<!\p{Latin})\p{Latin}{1,3} )?  # .5, F16
    """,
    regex.VERBOSE,
)
_DIGIT = regex.compile(rf"[\p{{N}}{_CHINESE}]")
_FROM_DIGIT, _TO_DIGIT = 10, 4
"""How far the places inside of a number are from one of its digits, in characters: `` trillion``, ``§§ 8``."""


def widen(text: str, start_char: int, stop_char: int) -> tuple[int, int]:
    """The smallest range that contains this one and starts and ends at borders; the same one, if it is empty."""
    if start_char == stop_char:
        return start_char, stop_char
    while not is_border(text, start_char):
        start_char -= 1
    while not is_border(text, stop_char):
        stop_char += 1
    return start_char, stop_char


def is_border(text: str, char: int) -> bool:
    """Whether an answer may start or end between the characters ``char - 1`` and ``char``."""
    return not 0 < char < len(text) or not (_is_inside_grapheme(text, char) or _is_inside_number(text, char))


def _is_inside_grapheme(text: str, char: int) -> bool:
    if _starts_grapheme(text, char):
        return False
    start = char - 1
    while char - start < MAX_UNIT_CHARS and not _starts_grapheme(text, start):
        start -= 1
    return next(_GRAPHEME.finditer(text, start, start + MAX_UNIT_CHARS + 1)).end() <= start + MAX_UNIT_CHARS


def _starts_grapheme(text: str, char: int) -> bool:
    return char == 0 or next(_GRAPHEME.finditer(text, char - 1, char + 1)).end() == char


def _is_inside_number(text: str, char: int) -> bool:
    if not _DIGIT.search(text, max(0, char - _FROM_DIGIT), char + _TO_DIGIT):
        return False
    first, last = max(0, char - MAX_UNIT_CHARS), char + MAX_UNIT_CHARS + _TO_DIGIT
    for number in _NUMBER.finditer(text, first, last):
        start = next(_BEFORE_NUMBER.finditer(text, 0, number.start())).start()
        if start >= char:
            return False
        if char < number.end() <= start + MAX_UNIT_CHARS:
            return True
    return False
