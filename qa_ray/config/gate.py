"""The config of ``qa-ray gate``."""

from typing import Any

from pydantic import Field

from qa_ray.config.finetune import GoldColumns
from qa_ray.config.sections import Documents, JobConfig, Place, StorageSettings, derived_settings
from qa_ray.model import settings as model_settings

_SIZES = [name for name in model_settings.WindowSettings.model_fields if name != "read"]
_GateWindows: Any = derived_settings(model_settings.WindowSettings, _SIZES)


class GateWindows(_GateWindows):
    """How documents are cut into windows: as in the answer job."""


class GateConfig(JobConfig):
    """Fits a gate on documents and questions with gold answers: which windows are worth reading."""

    verb = "gate"

    documents: Documents
    questions: Place = Field(
        description="Questions as Parquet, with gold answers in a column `answers`: lists of `{text, start_char}`; an "
        "empty list means that there is no answer. Questions whose text is asked about 10 or more documents with an "
        "answer are fitted; for all others the gate chooses by their words.",
        examples=["data/questions"],
    )
    output: Place = Field(description="Folder or URI for `gate.parquet`; must be empty.", examples=["gate"])
    model: Place = Field(
        default="default",
        description="The model that will answer, whose tokenizer and windows the gate is for: default, a folder, a "
        "URI or a hub id.",
    )
    columns: GoldColumns = GoldColumns()
    windows: GateWindows = GateWindows()
    storage: StorageSettings = StorageSettings()
