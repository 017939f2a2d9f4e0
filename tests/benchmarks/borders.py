r"""Which share of gold answers starts or ends inside of a number or a grapheme cluster, where no answer of ours does.

    python tests/benchmarks/borders.py PATH …        files in SQuAD's layout, or folders of them

First for each file; then for each kind of place, of the answers that touch one: how many start or end there. People do
not cut what is one number in inference/borders.py, and do cut what is not.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import regex
from rich.console import Console
from rich.table import Table

from qa_ray.inference.borders import widen

UNITS = r"°|km|kg|cm|mm|lb|ft|mi|m|GB|MB|GHz|MHz|Hz|kW|MW"
PLACES = {
    "between digits": r"(?<=\p{Nd})(?=\p{Nd})",
    "at a separator": r"(?<=\p{Nd})(?=[.,:'’/·٫٬]\p{Nd})|(?<=\p{Nd}[.,:'’/·٫٬])(?=\p{Nd})",
    "before st, bn, s": r"(?<=\p{Nd})(?=\p{Latin}{1,3}(?!\p{L}))",
    "before million": r"(?<=\p{Nd})(?= (?i:hundred|thousand|million|billion|trillion)\b)",
    "after a sign": r"(?<=(?:^|[\s(])[-−+])(?=\p{Sc}?\p{Nd})",
    "in 2024-11-25": r"(?<=\p{Nd}-\p{Nd}+)(?=-\p{Nd})|(?<=\p{Nd})(?=-\p{Nd}+-\p{Nd})",
    "before 万": r"(?<=\p{Nd})(?=[十百千万亿億萬])",
    "1939–45": r"(?<=\p{Nd})(?=[–-]\p{Nd}+(?!-?\p{Nd}))",
    "$ 5": r"(?<=\p{Sc})(?=\s?\p{Nd})",
    "5 °C": rf"(?<=\p{{Nd}})(?=\s?(?:{UNITS})\b)",
    "20 %": r"(?<=\p{Nd})(?=\s?[%％])",
}
PATTERNS = {kind: regex.compile(pattern) for kind, pattern in PLACES.items()}
AROUND_CHARS = 80  # of an answer, in which places are looked for


def main(*paths: str) -> None:
    files = [file for path in map(Path, paths) for file in ([path] if path.is_file() else sorted(path.rglob("*.json")))]
    console = Console(width=100)
    table = Table("file", "gold answers", "changed", "a number was cut", "a grapheme cluster was cut")
    total: Counter[str] = Counter()
    touched: Counter[str] = Counter()
    cut: Counter[str] = Counter()
    for file in files:
        counts: Counter[str] = Counter()
        for answer in gold(file):
            counts.update(changes(*answer))
            count_places(*answer, touched, cut)
        table.add_row(file.name, *row(counts))
        total += counts
    table.add_row("all", *row(total))
    kinds = Table("place", "answers that touch one", "that start or end there")
    for kind, number in touched.items():
        kinds.add_row(kind, f"{number:,}", f"{cut[kind]:,}, {cut[kind] / number:.1%}" if number else "")
    console.print(table, kinds)


def gold(file: Path) -> Iterator[tuple[str, int, int]]:
    """(text, start_char, stop_char) of each gold answer that is at its offset, without white space around it."""
    content = json.loads(file.read_text(encoding="utf-8"))
    for paragraph in (part for article in content["data"] for part in article["paragraphs"]):
        for answer in (answer for qa in paragraph["qas"] for answer in qa.get("answers", [])):
            text, answer_text, start = paragraph["context"], answer["text"], answer["answer_start"]
            if answer_text.strip() and start >= 0 and text.startswith(answer_text, start):
                start += len(answer_text) - len(answer_text.lstrip())
                yield text, start, start + len(answer_text.strip())


def changes(text: str, start: int, stop: int) -> Iterator[str]:
    """What is counted of an answer."""
    yield "gold"
    if widen(text, start, stop) != (start, stop):
        cuts_cluster = any(regex.fullmatch(r"\X", text[char - 1 : char + 1]) for char in {start, stop} - {0, len(text)})
        yield from ("changed", "cluster" if cuts_cluster else "number")


def count_places(text: str, start: int, stop: int, touched: Counter[str], cut: Counter[str]) -> None:
    first = max(0, start - AROUND_CHARS)
    around = text[first : stop + AROUND_CHARS]
    for kind, pattern in PATTERNS.items():
        places = {first + match.start() for match in pattern.finditer(around)}
        touched[kind] += any(start <= place <= stop for place in places)
        cut[kind] += bool({start, stop} & places)


def row(counts: Counter[str]) -> Iterator[str]:
    yield f"{counts['gold']:,}"
    for name in ("changed", "number", "cluster"):
        yield f"{counts[name]:,}, {counts[name] / max(1, counts['gold']):.2%}"


if __name__ == "__main__":
    main(*sys.argv[1:])
