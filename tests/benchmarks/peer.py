"""Another tool answers questions: python peer.py pipeline|haystack MODEL, in the environment of peers.txt.

Reads jobs as JSON lines (document, questions, max_tokens, overlap_tokens, max_answer_tokens, and optionally
max_question_tokens); writes {seconds, answers} for each.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any


def pipeline_reader(model: str) -> Callable[[dict[str, Any]], list[str]]:
    from transformers import pipeline

    # By default it computes in float16, as the weights are stored, which is three times slower on a CPU.
    reader = pipeline("question-answering", model=model, tokenizer=model, device=-1, dtype="float32")

    def read(job: dict[str, Any]) -> list[str]:
        answers = reader(
            question=job["questions"],
            context=job["document"],
            max_seq_len=job["max_tokens"],
            doc_stride=job["overlap_tokens"],
            max_question_len=job.get("max_question_tokens", 64),
            max_answer_len=job["max_answer_tokens"],
        )
        return [answer["answer"] for answer in (answers if isinstance(answers, list) else [answers])]

    return read


def haystack_reader(model: str) -> Callable[[dict[str, Any]], list[str]]:
    from haystack import Document
    from haystack.components.readers import ExtractiveReader
    from haystack.utils import ComponentDevice

    readers: dict[tuple[int, int], ExtractiveReader] = {}

    def read(job: dict[str, Any]) -> list[str]:
        windows = job["max_tokens"], job["overlap_tokens"]
        if windows not in readers:
            readers[windows] = ExtractiveReader(
                model, device=ComponentDevice.from_str("cpu"), max_seq_length=windows[0], stride=windows[1],
                max_batch_size=8, no_answer=False, top_k=1,
            )  # fmt: skip
            readers[windows].warm_up()
        document = Document(content=job["document"])
        results = [readers[windows].run(query=question, documents=[document]) for question in job["questions"]]
        return [result["answers"][0].data for result in results]

    return read


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # the libraries print to stderr
    read = {"pipeline": pipeline_reader, "haystack": haystack_reader}[sys.argv[1]](sys.argv[2])
    for line in sys.stdin:
        started = time.perf_counter()
        answers = read(json.loads(line))
        output.write(json.dumps({"seconds": time.perf_counter() - started, "answers": answers}) + "\n")
        output.flush()
