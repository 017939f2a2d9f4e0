"""An evaluation as one HTML page without scripts; texts of documents are escaped in it, as everything is."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from qa_ray.evaluation.evaluate import Evaluation
from qa_ray.version import VERSION

SIDE = 240  # of a picture, in its own units
MOST_POINTS = 400  # of a curve


def page(evaluation: Evaluation, answers: str, questions: str) -> str:
    """HTML; ``answers`` and ``questions`` say where they came from."""
    environment = Environment(
        loader=PackageLoader("qa_ray", "assets/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("evaluation.html")
    return template.render(
        evaluation=evaluation,
        answers=answers,
        questions=questions,
        version=VERSION,
        side=SIDE,
        curve_points=_curve_points(evaluation),
    )


def _curve_points(evaluation: Evaluation) -> str:
    """What an SVG polyline takes: recall to the right, precision upwards."""
    if not evaluation.curve:
        return ""
    points = list(zip(evaluation.curve.recalls, evaluation.curve.precisions, strict=True))
    points = points[:: max(1, len(points) // MOST_POINTS)] + points[-1:]
    return " ".join(f"{x * SIDE / 100:.1f},{SIDE - y * SIDE / 100:.1f}" for x, y in points)
