"""The overhead of the answer job: many tiny documents, and a model that takes no time.

    python tests/benchmarks/overhead.py [10000 100000]

Each number of documents is a job in its own process. The figures: seconds for the whole job, with the workers' start;
documents per second; milliseconds per document without that start; and the driver's peak memory, which should not grow
with the corpus.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent


def patch_model() -> None:
    """Makes every worker's model return zeros immediately."""
    import torch

    from qa_ray.model.runner import Model

    def return_zeros(self, ids_N, length_B, num_prefix_tokens_B):
        return torch.zeros(len(ids_N)), torch.zeros(len(ids_N))

    setattr(Model, "__call__", return_zeros)  # noqa: B010


def job(folder: str, num_documents: int) -> None:
    """Prints the job's figures as a line of JSON."""
    from qa_ray.answering.job import answer_documents
    from qa_ray.config import AnswerConfig, check_config
    from qa_ray.process import num_cores
    from qa_ray.runtime.resources import SPARE_CPUS
    from qa_ray.runtime.session import start_ray

    paths = {name: f"{folder}/{name}.parquet" for name in ("documents", "questions")}
    values = {**paths, "output": f"{folder}/output", "preview": 0, "runner": {"device": "cpu"}}
    start_ray(num_cores() + SPARE_CPUS, runtime_env={"worker_process_setup_hook": "overhead.patch_model"})
    started = time.perf_counter()
    manifest = answer_documents(check_config(AnswerConfig, values, "overhead.py"))
    seconds = time.perf_counter() - started
    assert manifest["counts"]["answers"] == num_documents
    figures = {
        "documents": num_documents,
        "seconds": round(seconds, 1),
        "documents_per_second": round(num_documents / seconds),
        # A tiny document is one window. Without the start of the workers:
        "ms_per_document_once_running": round(1000 / manifest["windows_per_second"], 2),
        "peak_driver_mb": manifest["peak_memory_mb"]["driver"],
    }
    print(json.dumps(figures), flush=True)  # noqa: T201


def main(numbers: list[str]) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    for number in numbers:
        with tempfile.TemporaryDirectory() as folder:
            ids = [f"d{i:06}" for i in range(int(number))]
            texts = [f"Ada Vane built lighthouse number {i} at Cape Blanco in 1871." for i in range(int(number))]
            pq.write_table(pa.table({"document_id": ids, "text": texts}), f"{folder}/documents.parquet")
            questions = {"question_id": ["who"], "question": ["Who built the lighthouse?"]}
            pq.write_table(pa.table(questions), f"{folder}/questions.parquet")
            subprocess.run([sys.executable, __file__, "job", folder, number], env=environment, check=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["job"]:
        job(sys.argv[2], int(sys.argv[3]))
    else:
        main(sys.argv[1:] or ["10000", "100000"])
