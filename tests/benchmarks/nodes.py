"""The answer job on one node and on two, with an actor of one thread on each.

    PYTHONPATH=tests/support .venv/bin/python tests/benchmarks/nodes.py [ROUNDS]

The nodes are ``ray start`` processes on this machine, which should have a core for each. The jobs are submitted with a
token. The result is windows per second from when the first actor runs; as the documents are few, it drops if the
other actor starts much later.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

from cluster_jobs import submit
from ray_cluster import RayCluster, ray_cluster
from reading import documents_with_questions
from running import write_config, write_job

NUM_DOCUMENTS, NUM_QUESTIONS = 8, 4
CPUS_PER_NODE = 2  # an actor's, and one to read or to tokenize


def windows_per_second(cluster: RayCluster, num_actors: int) -> float:
    text, questions = documents_with_questions(None)[-1]
    document_rows = [{"document_id": f"d{i}", "text": text} for i in range(NUM_DOCUMENTS)]
    question_rows = [
        {"question_id": f"q{i}", "question": questions[i], "document_id": None} for i in range(NUM_QUESTIONS)
    ]
    runner = {"device": "cpu", "actors": num_actors, "cpus_per_actor": 1, "resources_per_actor": {"place": 1}}
    with tempfile.TemporaryDirectory() as folder:
        job = write_job(Path(folder), "default", document_rows, question_rows, 1, runner=runner, preview=0)
        done = submit(cluster, write_config(Path(folder), job))
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads((Path(job.output) / "manifest.json").read_text())["windows_per_second"]


def main(rounds: int) -> None:
    rates_by_nodes: dict[int, list[float]] = {1: [], 2: []}
    with ray_cluster(num_cpus=0) as cluster:
        for num_nodes in (2, 3):  # the head included; one at a time, as two at once may choose the same port
            cluster.add_node(CPUS_PER_NODE, resources={"place": 1})
            cluster.wait_for_nodes(num_nodes)
        for _ in range(rounds):
            for num_actors, rates in rates_by_nodes.items():
                rates.append(windows_per_second(cluster, num_actors))
                print(f"{num_actors} nodes: {rates[-1]} windows/s", flush=True)  # noqa: T201
    one, two = map(statistics.median, rates_by_nodes.values())
    print(f"windows/s: one node {rates_by_nodes[1]}, two nodes {rates_by_nodes[2]}; two ÷ one {two / one:.2f}")  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 5)
