"""Where an answer may start and end: grapheme clusters and numbers stay whole."""

import itertools
import unicodedata

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from qa_ray.inference.borders import MAX_UNIT_CHARS, is_border, widen

GRAPHEMES = {
    "a letter with its mark": "e\u0301",
    "a letter with many marks": "a\u0301\u0323\u0308\u20dd",
    "a decomposed Korean syllable": "ᄀ\u1161\u11a8",
    "a syllable with a final consonant beside it": "가\u11a8",
    "an emoji of four people": "👩\u200d👩\u200d👧\u200d👦",
    "an emoji with a skin tone": "👍\U0001f3fd",
    "an emoji with a skin tone and a joiner": "👩\U0001f3fd\u200d💻",
    "a flag": "🇫🇷",
    "a flag of tags": "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "a keycap": "1\ufe0f\u20e3",
    "a sign shown as an emoji": "❤\ufe0f",
    "a Hindi conjunct": "क\u094dष",
    "a Hindi conjunct with a joiner": "क\u094d\u200dष",
    "a Hindi vowel sign": "कि",
    "a Tamil syllable": "நி",
    "a Thai letter with vowel and tone": "กี\u0e48",
    "a Thai letter with sara am": "กำ",
    "a Hebrew letter with its points": "שּׁ",
    "an Arabic letter with its vowel": "بَ",
    "an Arabic number sign": "\u0600٥",
    "the end of a line": "\r\n",
    "a variant of an ideograph": "葛\U000e0100",
    "a character beyond 16 bits with a mark": "𝒜\u0301",
}

NUMBERS = [
    "7,000,000", "7,000,000.50", "1.5", "0.5", ".5", "1,5", "7.000.000,50", "7'000'000", "7’000’000", "7,00,000",
    "1_000", "12:30", "12:30:45", "2024-11-25", "25.11.2024", "11/25/2024", "2024-11-25T12:30:00Z", "555-010-9999",
    "192.168.0.1", "8.2.1", "§8", "1/2", "2½", "10⁶", "10^6", "10^-6", "1e5", "1.5e-10", "6.02×10^23", "-5", "−5",
    "+290", "-$7,000", "−7.5", "1980s", "5th", "7bn", "1.5M", "10km", "12:30pm", "3D", "F16", "H1N1", "v1.2.3",
    "0x7F", "5'8", "٧٬٠٠٠٬٠٠٠", "۱۲٫۵", "७,००,०००", "๗,๐๐๐", "７，０００．５", "１２：３０", "১২৩", "፲፪", "ⅩⅡ",
    "7000万", "3万5000", "七百万", "一百二十三", "柒佰万", "7000만", "5천만",
    "1\u00a0000\u00a0000", "1\u202f000\u202f000", "1\u2009000",
    "1 000 000", "94 000", "§ 8.2", "§§\u00a08.2", "5 1/2", "6.02 × 10^23", "7 million", "1.5\u00a0Billion",
]  # fmt: skip

NOT_ONE_NUMBER = {
    "1939–45": ["1939", "–", "45"],
    "1939-45": ["1939", "-", "45"],
    "30,000-50,000": ["30,000", "-", "50,000"],
    "50%": ["50", "%"],
    "$7,000": ["$", "7,000"],
    "€7bn": ["€", "7bn"],
    "5°": ["5", "°"],
    "8.2.": ["8.2", "."],
    "5\n000": ["5", "\n", "000"],
    "5, 6": ["5", ",", " ", "6"],
    "120 30": ["120", " ", "30"],
    "R9 390": ["R9", " ", "390"],
    "2020년": ["2020", "년"],
    "2008，2009": ["2008", "，", "2009"],
    "2011年": ["2011", "年"],
    "1939 –45": ["1939", " ", "–", "45"],
    "e\u03015,0": ["e\u0301", "5,0"],
    "5\u0301,000": ["5\u0301", ",", "000"],
}

BEFORE = ["", " ", "(", "x ", "é ", "\n", "„", "كان ", "中"]  # a sign after 中 may be a hyphen: 歼-20
AFTER = ["", ".", ",", ")", " ", " x", "%", "中", "。", " 元", "\n"]


def units(text: str) -> list[str]:
    """The text cut at all its borders."""
    borders = [char for char in range(len(text) + 1) if is_border(text, char)]
    return [text[start:stop] for start, stop in itertools.pairwise(borders)]


@pytest.mark.parametrize("before", ["", "б", "中", "🇩🇪", " "])
@pytest.mark.parametrize("after", ["", "б", "中", "🇩🇪", " "])
@pytest.mark.parametrize("character", GRAPHEMES.values(), ids=GRAPHEMES)
def test_what_a_reader_sees_as_one_character_is_whole(before: str, character: str, after: str):
    assert units(before + character + after) == [*regex.findall(r"\X", before), character, *regex.findall(r"\X", after)]


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_is_whole_wherever_it_is(number: str):
    for before, after in itertools.product(BEFORE[:-1] if number[0] in "-−+" else BEFORE, AFTER):
        text = before + number + after
        start, stop = len(before), len(before) + len(number)
        assert not any(is_border(text, char) for char in range(start + 1, stop)), text
        assert (is_border(text, start), is_border(text, stop)) == (True, True), text


@pytest.mark.parametrize("text", NOT_ONE_NUMBER)
def test_what_people_cut_is_not_one_number(text: str):
    assert units(text) == NOT_ONE_NUMBER[text]


DIGITS = st.text("0123456789", min_size=1, max_size=3)
NUMERALS = st.one_of(
    st.lists(DIGITS, min_size=1, max_size=6).flatmap(
        lambda groups: st.sampled_from([",", ".", ":", "/", "'", "٬"]).map(lambda separator: separator.join(groups))
    ),
    st.lists(st.text("٠١٢٣", min_size=3, max_size=3), min_size=1, max_size=5).map("\u00a0".join),
    st.lists(DIGITS, min_size=3, max_size=5).map("-".join),
    st.text("0123456789०१२", min_size=1, max_size=MAX_UNIT_CHARS),
)
WORDS = st.text(alphabet="abcdé中 문\n\t()е\u0301👩\u200d💻🇫🇷", max_size=12).map(lambda words: words + " ")


@given(WORDS, NUMERALS, st.sampled_from(["", "k", "th", " million"]), WORDS)
def test_no_border_is_inside_a_number_in_any_text(before: str, digits: str, suffix: str, after: str):
    number, text = digits + suffix, before + digits + suffix + " " + after
    if len(number) <= MAX_UNIT_CHARS:
        assert not any(is_border(text, len(before) + char) for char in range(1, len(number)))


TEXTS = st.text(
    alphabet=st.one_of(
        st.sampled_from(list("01279.,:'/-–§$% \u00a0\r\nabK万百中") + list("".join(GRAPHEMES.values()))),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=30,
)


@given(TEXTS)
def test_borders_are_grapheme_borders(text: str):
    clusters = {0, *(match.end() for match in regex.finditer(r"\X", text))}
    borders = {char for char in range(len(text) + 1) if is_border(text, char)}
    assert borders <= clusters
    if not any(unicodedata.numeric(character, None) is not None for character in text):
        assert borders == clusters


@given(TEXTS, st.data())
def test_a_range_is_widened_to_the_nearest_borders(text: str, data: st.DataObject):
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, len(text)))
    borders = [char for char in range(len(text) + 1) if is_border(text, char)]
    nearest = max(char for char in borders if char <= start), min(char for char in borders if char >= stop)
    assert widen(text, start, stop) == (nearest if start < stop else (start, stop))
    assert widen(text, *widen(text, start, stop)) == widen(text, start, stop)


@given(TEXTS, st.sampled_from(["lorem ipsum, ", "中文。", "🇫🇷🇩🇪 ", "42 and 7,000 or "]))
def test_borders_do_not_depend_on_text_far_away(text: str, filler: str):
    before, after = filler * 20 + "\n\n", "\n\n" + filler * 20
    alone = [is_border("\n\n" + text + "\n\n", char + 2) for char in range(len(text) + 1)]
    assert [is_border(before + text + after, len(before) + char) for char in range(len(text) + 1)] == alone


def test_a_list_of_numbers_and_a_heap_of_marks_may_be_cut_so_that_answers_have_a_limit():
    for text in (",".join("123456789" * 20), "7" * 1_000, "a" + "\u0301" * 1_000, "一" * 1_000):
        assert all(is_border(text, char) for char in range(len(text)))


def test_flags_in_a_row_are_cut_between_them():
    text = "🇫🇷🇩🇪🇮🇹" * 100
    assert [char for char in range(len(text) + 1) if is_border(text, char)] == list(range(0, len(text) + 1, 2))
