import pytest
from running import one_of, raises_error

from qa_ray.config import AnswerConfig, EvaluateConfig, FinetuneConfig, PrepareConfig, check_config
from qa_ray.errors import ConfigError
from qa_ray.evaluation.metrics import METRICS
from qa_ray.inference.settings import InferenceSettings
from qa_ray.model.settings import ModelSettings
from qa_ray.output.sinks import SINKS
from qa_ray.preparation.sources import SOURCES

TABLES = {"documents": "d", "questions": "q", "output": "o"}


def answer_settings() -> dict:
    config = check_config(AnswerConfig, TABLES, "test")
    return config.windows.model_dump(exclude={"long_questions", "gate"}) | config.answers.model_dump()


def test_every_setting_of_inference_is_a_key_of_windows_or_answers():
    assert answer_settings().keys() == InferenceSettings.model_fields.keys()


def test_what_a_model_may_know_better_is_unset_and_the_rest_has_the_defaults_of_inference():
    for name, value in answer_settings().items():
        is_of_model = name in ModelSettings.model_fields
        assert value == (None if is_of_model else InferenceSettings.model_fields[name].default)


@pytest.mark.parametrize(
    ("section", "name", "value", "message"),
    [
        ("windows", "max_tokens", 0, "windows.max_tokens: Input should be greater than 0, not 0"),
        ("answers", "no_answer_threshold", 1.5, "answers.no_answer_threshold: Input should be less than or equal to 1"),
        (
            "answers",
            "score_intercept",
            float("nan"),
            "answers.score_intercept: Input should be a finite number, not nan",
        ),
        ("answers", "n_best", None, "answers.n_best: Input should be a valid integer, not null"),
    ],
)
def test_bounds_are_those_of_inference(section: str, name: str, value: object, message: str):
    with raises_error(ConfigError, message):
        check_config(AnswerConfig, TABLES | {section: {name: value}}, "test")


def test_names_are_checked_against_the_tables_of_their_packages():
    with raises_error(ConfigError, f"metric: Input should be {one_of(METRICS)}, not 'no-such'"):
        check_config(EvaluateConfig, {"answers": "a", "questions": "q", "metric": "no-such"}, "test")
    of_best_answers = [name for name in METRICS if name != "cuad"]
    with raises_error(ConfigError, f"validation.metric: Input should be {one_of(of_best_answers)}, not 'cuad'"):
        check_config(FinetuneConfig, TABLES | {"validation": {"metric": "cuad"}}, "test")
    with raises_error(ConfigError, f"layout: Input should be {one_of(['auto', *SOURCES])}, not 'no-such'"):
        check_config(PrepareConfig, {"source": "s", "output": "o", "layout": "no-such"}, "test")
    with raises_error(ConfigError, f"export.0: Input should be {one_of(SINKS)}, not 'no-such'"):
        check_config(AnswerConfig, TABLES | {"export": ["no-such"]}, "test")


def test_the_settings_describe_every_name():
    layout = str(PrepareConfig.model_fields["layout"].description)
    metric = str(EvaluateConfig.model_fields["metric"].description)
    assert all(f"{name}: {source.description}." in layout for name, source in SOURCES.items())
    assert all(f"{name} ({value.description or value.rules.title})" in metric for name, value in METRICS.items())


def test_a_name_that_was_added_to_a_table_is_accepted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(METRICS, "rouge", METRICS["squad"])
    monkeypatch.setitem(SOURCES, "wiki", SOURCES["text"])
    monkeypatch.setitem(SINKS, "xml", SINKS["jsonl"])
    assert check_config(EvaluateConfig, {"answers": "a", "questions": "q", "metric": "rouge"}, "test").metric == "rouge"
    assert (
        check_config(FinetuneConfig, TABLES | {"validation": {"metric": "rouge"}}, "test").validation.metric == "rouge"
    )
    assert check_config(PrepareConfig, {"source": "s", "output": "o", "layout": "wiki"}, "test").layout == "wiki"
    assert check_config(AnswerConfig, TABLES | {"export": "xml"}, "test").export == ["xml"]


def test_credentials_in_a_uri_are_refused():
    with raises_error(ConfigError, "documents: credentials in a URI end up in logs"):
        check_config(AnswerConfig, TABLES | {"documents": "s3://key:secret@bucket/x"}, "test")


def test_validation_needs_both_tables_or_neither():
    with raises_error(ConfigError, "validation: validation needs documents and questions, or neither"):
        check_config(FinetuneConfig, TABLES | {"validation": {"documents": "d"}}, "test")
