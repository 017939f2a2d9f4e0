"""EM and F1 on long documents by ranking of spans and by lexical weight, to choose both for a model.

    python tests/benchmarks/ranking.py dev-v1.1.json [model] [articles] [questions per article]

Joins the paragraphs of each article of a SQuAD file into one long document and asks questions of it. Put the best
ranking and weight into the model's qa_ray.json, then calibrate its scores again (qa-ray init calibrate).
"""

import json
import random
import sys
from collections import defaultdict
from itertools import product
from pathlib import Path

from qa_ray import Reader
from qa_ray.evaluation.squad import squad1_scores
from qa_ray.inference.batching import logits
from qa_ray.inference.decoding import answer_pairs
from qa_ray.schemas import Ranking, ReadableDocument, ReadPart

RANKINGS: tuple[Ranking, ...] = ("logit", "logit_minus_null")
LEXICAL_WEIGHTS = (0.0, 0.2, 0.4, 0.6)


def main(path: str, model: str = "default", num_articles: str = "7", num_questions: str = "25") -> None:
    reader = Reader(model, dtype="bfloat16")
    random.seed(1)
    totals: dict[str, float] = defaultdict(float)
    articles = json.loads(Path(path).read_text(encoding="utf-8"))["data"]
    for article in random.sample(articles, int(num_articles)):
        text = "\n\n".join(paragraph["context"] for paragraph in article["paragraphs"])
        gold = [qa for paragraph in article["paragraphs"] for qa in paragraph["qas"]]
        gold = random.sample(gold, min(int(num_questions), len(gold)))
        questions = [reader.tokenizer.question(qa["question"]) for qa in gold]
        document = ReadableDocument(text, reader.tokenizer(text), questions)
        pairs = [reader.pair(document, question, reader.settings) for question in questions]
        pair_logits = logits(reader.model, reader.layout, pairs)
        totals["questions"] += len(gold)
        for ranking, weight in product(RANKINGS, LEXICAL_WEIGHTS):
            settings = reader.settings.model_copy(update={"ranking": ranking, "lexical_weight": weight})
            parts = [ReadPart(document, document.tokens, len(pair.windows)) for pair in pairs]
            for qa, answer in zip(gold, answer_pairs(parts, pairs, pair_logits, settings), strict=True):
                best = answer["n_best"][0]["answer"]
                exact, f1 = squad1_scores(best, [answer["text"] for answer in qa["answers"]])
                totals[f"{ranking} {weight} EM"] += exact
                totals[f"{ranking} {weight} F1"] += f1
        print({name: round(100 * total / totals["questions"], 1) for name, total in totals.items()}, flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
