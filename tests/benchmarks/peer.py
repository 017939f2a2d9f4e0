"""Another tool reads a document: python peer.py pipeline|haystack MODEL, in the environment of peers.txt.

Takes jobs as JSON lines (document, questions, max_tokens, overlap_tokens, max_answer_tokens, perhaps
max_question_tokens), gives {seconds, answers}.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any


def pipeline_reader(model: str) -> Callable[[dict[str, Any]], list[str]]:
    from transformers import pipeline

    # It would take the float16 in which the weights are stored, which is three times slower on a CPU.
    reader = pipeline("question-answering", model=model, tokenizer=model, device=-1, dtype="float32")

    def read(job: dict[str, Any]) -> list[str]:
        found = reader(
            question=job["questions"],
            context=job["document"],
            max_seq_len=job["max_tokens"],
            doc_stride=job["overlap_tokens"],
            max_question_len=job.get("max_question_tokens", 64),
            max_answer_len=job["max_answer_tokens"],
        )
        return [answer["answer"] for answer in (found if isinstance(found, list) else [found])]

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
        found = [readers[windows].run(query=question, documents=[document]) for question in job["questions"]]
        return [answers["answers"][0].data for answers in found]

    return read


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print goes elsewhere
    read = {"pipeline": pipeline_reader, "haystack": haystack_reader}[sys.argv[1]](sys.argv[2])
    for line in sys.stdin:
        started = time.perf_counter()
        found = read(json.loads(line))
        answers.write(json.dumps({"seconds": time.perf_counter() - started, "answers": found}) + "\n")
        answers.flush()
