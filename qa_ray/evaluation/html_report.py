"""An evaluation as one self-contained HTML page without scripts. All text is escaped, that of documents included."""

from jinja2 import Environment, PackageLoader, StrictUndefined

from qa_ray.evaluation.metrics import find_metric
from qa_ray.evaluation.report import Evaluation
from qa_ray.version import VERSION

CHART_SIDE = 240  # of a square chart, in SVG units
MAX_POINTS = 400  # of a curve


def page(evaluation: Evaluation, answers: str, questions: str) -> str:
    """HTML; ``answers`` and ``questions`` are the URIs that were evaluated."""
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
        side=CHART_SIDE,
        curve_points=_curve_points(evaluation),
        match_rule=find_metric(evaluation.metric).match_rule,
    )


def _curve_points(evaluation: Evaluation) -> str:
    """The points of an SVG polyline: recall to the right, precision upwards."""
    if not evaluation.curve:
        return ""
    points = list(zip(evaluation.curve.recalls, evaluation.curve.precisions, strict=True))
    points = points[:: max(1, len(points) // MAX_POINTS)] + points[-1:]
    return " ".join(f"{x * CHART_SIDE / 100:.1f},{CHART_SIDE - y * CHART_SIDE / 100:.1f}" for x, y in points)
