"""qa-ray beside transformers 5, the question-answering pipeline of transformers 4.57 and Haystack: make bench.

    python tests/benchmarks/bench.py [--rounds 5] [--only forward,share,length,job,reader,mixed] [--out bench.json]

Every row compares contenders that took turns in one run, on the same windows and weights: the median, and the range
from the fastest to the slowest round. The floor is the number of operations of the window divided by the rate of a
matrix product, which took turns with the contenders.
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

from qa_ray.process import keep_memory, num_cores


def show(rows: list[Row], console: Console) -> None:
    table = Table("task", "contender", "median s", "spread", "of floor", "times the slowest", title="make bench")
    rows_by_task: dict[str, list[Row]] = {}
    for row in rows:
        rows_by_task.setdefault(row.task, []).append(row)
    for task, task_rows in rows_by_task.items():
        slowest = max((row.median for row in task_rows if row.seconds), default=0.0)
        for i, row in enumerate(task_rows):
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
    parser.add_argument("--data", type=Path, help="a folder with documents/ and questions/; default: the demo's")
    parser.add_argument("--documents", type=int, default=4, help="number of document lengths, for mixed")
    parser.add_argument("--questions", type=int, default=10, help="questions per document, for mixed")
    parser.add_argument("--out", type=Path, default=Path("build/bench.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(num_cores())
    keep_memory()
    console = Console(width=160 if not sys.stdout.isatty() else None)
    rows: list[Row] = []
    parts: dict[str, Callable[[], Iterator[Row]]] = {
        "forward": lambda: forward_rows(arguments.rounds),
        "share": lambda: share_rows(arguments.rounds, arguments.data),
        "length": lambda: length_rows(arguments.rounds, arguments.data),
        "job": lambda: job_rows(arguments.rounds, arguments.peers, arguments.data),
        "reader": lambda: reader_rows(arguments.rounds, arguments.peers, arguments.data),
        "mixed": lambda: mixed_rows(
            arguments.rounds, arguments.peers, arguments.data, arguments.documents, arguments.questions
        ),
    }
    for name in arguments.only.split(","):
        rows += parts[name]()
    show(rows, console)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps([vars(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
