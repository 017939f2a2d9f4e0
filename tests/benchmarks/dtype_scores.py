"""EM and F1 on SQuAD 1.1 in each dtype, for evenly spaced questions.

python tests/benchmarks/dtype_scores.py dev-v1.1.json [--questions 1000] [--dtypes float32,bfloat16,int8]
"""

import argparse
import json
import sys
from pathlib import Path

from qa_ray.evaluation.squad import squad1_scores
from qa_ray.inference.reader import Reader


def spaced_questions(file: Path, num_questions: int) -> list[tuple[str, str, list[str]]]:
    """Question, document and gold answers."""
    every = [
        (qa["question"], paragraph["context"], [gold["text"] for gold in qa["answers"]])
        for article in json.loads(file.read_text())["data"]
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    return [every[i * len(every) // num_questions] for i in range(num_questions)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--dtypes", default="float32,bfloat16,int8")
    arguments = parser.parse_args()
    questions, documents, golds_Q = zip(*spaced_questions(arguments.file, arguments.questions), strict=True)
    answers_by_dtype: dict[str, list[str]] = {}
    for dtype in arguments.dtypes.split(","):
        answers = Reader(device="cpu", dtype=dtype).answer(list(questions), list(documents))
        answers_by_dtype[dtype] = texts = [answer["answer"] for answer in answers]
        scores = [squad1_scores(text, golds) for text, golds in zip(texts, golds_Q, strict=True)]
        exact, f1 = (
            100 * sum(getattr(score, name) for score in scores) / len(scores) for name in ("exact_match", "f1")
        )
        first = next(iter(answers_by_dtype.values()))
        num_equal = sum(a == b for a, b in zip(texts, first, strict=True))
        result = f"{dtype}: EM {exact:.2f}, F1 {f1:.2f}; {num_equal:,} of {len(texts):,} answers as in the first"
        sys.stdout.write(f"{result}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
