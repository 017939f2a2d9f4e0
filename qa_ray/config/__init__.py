"""One typed config class per job, read from YAML and ``key=value`` settings; an unknown key is an error.

Every key is declared once, with its type, bounds, default and description: here, or in the package that uses it
(``model/settings.py``, ``inference/settings.py``). Names of formats and metrics are checked against the tables of their
packages. Importing this package loads neither torch, transformers, ray nor datasets.
"""

from qa_ray.config.answer import AnswerConfig, Limits, RunnerSettings
from qa_ray.config.evaluate import EvaluateConfig
from qa_ray.config.finetune import FinetuneConfig, WorkerSettings
from qa_ray.config.gate import GateConfig
from qa_ray.config.lengthen import LengthenConfig
from qa_ray.config.load import check_config, read_config, read_storage
from qa_ray.config.prepare import PrepareConfig
from qa_ray.config.sections import JobConfig, Section, StorageSettings

__all__ = [
    "CONFIGS",
    "AnswerConfig",
    "EvaluateConfig",
    "FinetuneConfig",
    "GateConfig",
    "JobConfig",
    "LengthenConfig",
    "Limits",
    "PrepareConfig",
    "RunnerSettings",
    "Section",
    "StorageSettings",
    "WorkerSettings",
    "check_config",
    "read_config",
    "read_storage",
]

# By the verb of the command line.
CONFIGS: dict[str, type[JobConfig]] = {
    config.verb: config
    for config in (PrepareConfig, AnswerConfig, EvaluateConfig, FinetuneConfig, GateConfig, LengthenConfig)
}
