"""qa-ray beside transformers 5, the question-answering pipeline of transformers 4.57 and Haystack: make bench.

    python tests/benchmarks/bench.py [--rounds 5] [--only forward,share,length,job,reader,mixed] [--out bench.json]

Every row compares contenders that took turns in one run, on the same windows and weights: medians, and the spread
between the fastest and the slowest round. The floor is the operations of the window over the rate of matrix products,
which took turns with the contenders.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from forwards import forward_rows
from on_ray import job_rows, mixed_rows
from reading import length_rows, reader_rows, share_rows
from rich.console import Console
from rich.table import Table
from rounds import Row

from qa_ray.process import keep_memory
from qa_ray.runtime.session import num_cores


def show(rows: list[Row], console: Console) -> None:
    table = Table("task", "contender", "median s", "spread", "of floor", "times the slowest", title="make bench")
    tasks: dict[str, list[Row]] = {}
    for row in rows:
        tasks.setdefault(row.task, []).append(row)
    for task, of_task in tasks.items():
        slowest = max((row.median for row in of_task if row.seconds), default=0.0)
        for i, row in enumerate(of_task):
            name = task if not i else ""
            if not row.seconds:
                table.add_row(name, row.contender, f"{row.notes['relative']:.1e}", "", "", "")
                continue
            spread = f"{min(row.seconds):.3f}–{max(row.seconds):.3f}"
            floor = f"{row.floor_s / row.median:.0%} at {row.notes['gflops']:,.0f} GFLOP/s" if row.floor_s else ""
            table.add_row(name, row.contender, f"{row.median:.3f}", spread, floor, f"{slowest / row.median:.2f}")
        table.add_section()
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="forward,share,length,job,reader")
    parser.add_argument("--peers", type=Path, default=Path(".bench"), help="the environment of peers.txt")
    parser.add_argument("--data", type=Path, help="a folder with documents/ and questions/; the demo's are the default")
    parser.add_argument("--documents", type=int, default=4, help="of how many lengths, for mixed")
    parser.add_argument("--questions", type=int, default=10, help="how many of each, for mixed")
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"))
    given = parser.parse_args()
    torch.set_num_threads(num_cores())
    keep_memory()
    console = Console(width=160 if not sys.stdout.isatty() else None)
    rows: list[Row] = []
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "forward": lambda: forward_rows(given.rounds),
        "share": lambda: share_rows(given.rounds, given.data),
        "length": lambda: length_rows(given.rounds, given.data),
        "job": lambda: job_rows(given.rounds, given.peers, given.data),
        "reader": lambda: reader_rows(given.rounds, given.peers, given.data),
        "mixed": lambda: mixed_rows(given.rounds, given.peers, given.data, given.documents, given.questions),
    }
    for name in given.only.split(","):
        rows += parts[name]()
    show(rows, console)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps([vars(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
