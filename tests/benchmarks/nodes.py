"""The answer job on two nodes beside the same on one, an actor of one thread on each.

    PYTHONPATH=tests .venv/bin/python tests/benchmarks/nodes.py [ROUNDS]

The nodes are real ``ray start`` processes on this machine, so it should have a core for each; the jobs are submitted
with a token, and what is compared is windows a second once the first actor runs. The documents are few: where actors
start far apart, that is much of the figure.
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

from cluster_jobs import submit
from ray_cluster import RayCluster, ray_cluster
from reading import asked_documents
from running import write_config, write_job

NUM_DOCUMENTS, NUM_QUESTIONS = 8, 4
CPUS_PER_NODE = 2  # an actor's, and one to read or to tokenize


def windows_per_second(cluster: RayCluster, num_actors: int) -> float:
    text, questions = asked_documents(None)[-1]
    documents = [{"document_id": f"d{i}", "text": text} for i in range(NUM_DOCUMENTS)]
    asked = [{"question_id": f"q{i}", "question": questions[i], "document_id": None} for i in range(NUM_QUESTIONS)]
    runner = {"device": "cpu", "actors": num_actors, "cpus_per_actor": 1, "resources_per_actor": {"place": 1}}
    with tempfile.TemporaryDirectory() as folder:
        job = write_job(Path(folder), "default", documents, asked, 1, runner=runner, preview=0)
        done = submit(cluster, write_config(Path(folder), job))
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads((Path(job.output) / "manifest.json").read_text())["windows_per_second"]


def main(rounds: int) -> None:
    found: dict[int, list[float]] = {1: [], 2: []}
    with ray_cluster(num_cpus=0) as cluster:
        for number in (2, 3):  # with the head; one by one, or two might choose the same port
            cluster.add_node(CPUS_PER_NODE, resources={"place": 1})
            cluster.wait_for_nodes(number)
        for _ in range(rounds):
            for num_actors, rates in found.items():
                rates.append(windows_per_second(cluster, num_actors))
                print(f"{num_actors} nodes: {rates[-1]} windows/s", flush=True)  # noqa: T201
    one, two = map(statistics.median, found.values())
    print(f"windows/s: one node {found[1]}, two nodes {found[2]}; two ÷ one {two / one:.2f}")  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 5)
