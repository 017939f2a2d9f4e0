"""The reader beside processes that keep every core busy: its share of the machine.

    python tests/benchmarks/neighbor.py [--rounds 3]

As many processes compute without end as there are cores, so the fair share of a reader with as many threads, or with
one, is half of what it has alone: 100 % is twice the time. How threads wait is decided when torch loads, so each
contender is a process of its own: the reader as it comes, with one thread, and with threads that spin while they wait.
"""

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from qa_ray.process import num_cores

QUESTIONS = 75
CONTENDERS = {"as it comes": ("None", {}), "1 thread": ("1", {}), "spinning": ("None", {"OMP_WAIT_POLICY": "ACTIVE"})}
CODE = f"""
import sys, time, qa_ray
reader = qa_ray.Reader("default", device="cpu", dtype="float32", threads={{threads}})
text = "The lighthouse was built by Ada Vane in 1871. Jon Holm, its keeper, painted the door red. " * 8
reader.answer("Who built it?", text)
started = time.perf_counter()
for _ in range({QUESTIONS}):
    reader.answer("Who built it?", text)
print(time.perf_counter() - started)
"""


def seconds(contender: str) -> float:
    threads, variables = CONTENDERS[contender]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")} | variables
    code = CODE.format(threads=threads)
    return float(subprocess.run([sys.executable, "-c", code], env=environment, stdout=-1, text=True, check=True).stdout)


def spin() -> None:
    while True:
        pass


@contextmanager
def busy_cores() -> Iterator[None]:
    processes = [multiprocessing.Process(target=spin, daemon=True) for _ in range(num_cores())]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        for process in processes:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    for contender in CONTENDERS:
        alone, beside = [], []
        for _ in range(rounds):
            alone.append(seconds(contender))
            with busy_cores():
                beside.append(seconds(contender))
        alone_s, beside_s = statistics.median(alone), statistics.median(beside)
        share = 2 * alone_s / beside_s
        sys.stdout.write(f"{contender:12} alone {alone_s:.2f} s, beside {beside_s:.2f} s: {share:.0%} of the share\n")


if __name__ == "__main__":
    main()
