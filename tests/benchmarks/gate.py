"""What reading less costs: F1 and calibration by the windows read, and by what else uses the question's words.

    qa-ray prepare configs/prepare.yaml source=dev-v1.1.json join=true output=build/joined
    python tests/benchmarks/gate.py build/joined --sample 8

TABLES are the documents and questions of `qa-ray prepare`. For each rule every window that it leaves is read once, and
decoded several times: with the lexical boost of the model, without, and with a prior over windows instead, the log of
BM25's share of the best window's score, times a weight.
"""

import argparse
import sys
import time
from functools import partial
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from qa_ray import Reader
from qa_ray.evaluation.calibration import calibration
from qa_ray.evaluation.squad import squad1_scores
from qa_ray.gate.lexical import bm25
from qa_ray.inference import decoding
from qa_ray.inference.batching import Pair, logits
from qa_ray.inference.decoding import answer_pairs
from qa_ray.inference.lexical_boost import lexical_match
from qa_ray.schemas import ReadableDocument, ReadPart

PRIORS = (0.25, 0.5, 1.0, 2.0)


def main(arguments: argparse.Namespace) -> None:
    documents = [document for document in read(arguments.tables, arguments.sample) if document[1]]
    for rule in arguments.rules:
        reader = Reader(
            arguments.model, dtype=arguments.dtype, read=rule, gate=arguments.gate if rule != "all" else None
        )
        own = reader.settings.lexical_weight
        weights = [("boost", boost, own), ("boost", boost, 0.0), *(("prior", prior, weight) for weight in PRIORS)]
        variants = {f"{name} {weight:g}": partial(function, weight) for name, function, weight in weights}
        measure(reader, documents, rule, variants)


def read(tables: str, sample: int | None) -> list[tuple[str, list[dict[str, Any]]]]:
    """Texts, and questions with gold answers: ``sample`` of each, evenly spaced."""
    questions: dict[str, list[dict[str, Any]]] = {}
    for row in pq.read_table(f"{tables}/questions").to_pylist():
        if row["answers"]:
            questions.setdefault(row["document_id"], []).append(row)
    documents = pq.read_table(f"{tables}/documents").to_pylist()
    texts = {row["document_id"]: row["text"] for row in documents}
    return [
        (texts[id_], rows[:: max(1, len(rows) // sample)][:sample] if sample else rows)
        for id_, rows in questions.items()
    ]


def boost(weight: float, part: ReadPart, pair: Pair) -> np.ndarray:
    match = lexical_match(part.document.tokens.ids_T, pair.question_ids)
    return np.float32(weight) * (match if part.token_T is None else match[part.token_T])


def prior(weight: float, part: ReadPart, pair: Pair) -> np.ndarray:
    """For each token that is read, by the window that owns it; scores are those among the windows of the document."""
    windows = pair.windows
    scores = bm25(part.tokens.ids_T, pair.question_ids, windows)
    log_share = np.log((scores + 0.05) / (scores.max() + 0.05))
    return np.repeat(weight * log_share, windows.own_stop_W - windows.own_start_W).astype(np.float32)


def measure(reader: Reader, documents: Any, rule: Any, variants: Any) -> None:
    outcomes: dict[str, list[tuple[float, float, float]]] = {name: [] for name in variants}
    num_read = num_windows = 0
    seconds = 0.0
    for text, rows in documents:
        ids = [reader.tokenizer.question(row["question"]) for row in rows]
        document = ReadableDocument(text, reader.tokenizer(text), ids)
        started = time.perf_counter()
        parts, pairs = zip(*(reader._part(document, question, reader.settings) for question in ids), strict=True)
        pair_logits = logits(reader.model, reader.layout, pairs)
        seconds += time.perf_counter() - started
        num_read += sum(len(pair.windows) for pair in pairs)
        num_windows += sum(part.num_windows for part in parts)
        for name, variant in variants.items():
            boosts = iter([variant(part, pair) for part, pair in zip(parts, pairs, strict=True)])
            original, decoding._boost = decoding._boost, lambda *_, boosts=boosts: next(boosts)
            try:
                answers = answer_pairs(parts, pairs, pair_logits, reader.settings)
            finally:
                decoding._boost = original
            for row, answer in zip(rows, answers, strict=True):
                best = answer["n_best"][0]
                exact, f1 = squad1_scores(best["answer"], [gold["text"] for gold in row["answers"]])
                outcomes[name].append((exact, f1, best["score"]))
    say(f"{rule}: {num_read:,} of {num_windows:,} windows ({num_read / num_windows:.1%}), {seconds:.0f} s")
    for name, rows in outcomes.items():
        exact, f1, score = np.array(rows).T
        error = calibration(score, exact).expected_error
        say(f"  {name:10} F1 {100 * f1.mean():.2f} EM {100 * exact.mean():.2f} calibration error {error:.3f}")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", metavar="TABLES")
    parser.add_argument("--sample", type=int, help="questions of a document (default: all)")
    parser.add_argument("--rules", nargs="+", type=yaml.safe_load, default=["all", {"most": 8}, {"most": 5}])
    parser.add_argument("--gate")
    parser.add_argument("--model", default="default")
    parser.add_argument("--dtype", default="auto")
    main(parser.parse_args())
