"""The config of ``qa-ray prepare``."""

from typing import Annotated

from pydantic import Field

from qa_ray.config.sections import JobConfig, OneOf, Place, StorageSettings
from qa_ray.preparation.sources import SOURCES


class PrepareConfig(JobConfig):
    """Makes the two tables that every job reads, documents and questions, from files or a dataset."""

    verb = "prepare"

    source: Place = Field(
        description="SQuAD JSON (v1 or v2), a folder of text files, or a dataset for the `datasets` library (a hub "
        "id, or a local file or folder).",
        examples=["dev-v2.0.json"],
    )
    output: Place = Field(
        description="Output folder or URI: `documents/*.parquet`, `questions/*.parquet`, and `rejects/*.parquet` if "
        "there are any.",
        examples=["data"],
    )
    layout: Annotated[str, OneOf(lambda: ["auto", *SOURCES])] = Field(
        default="auto",
        description="Format of the source. auto: the first of the following that is detected. "
        + " ".join(f"{name}: {source.description}." for name, source in SOURCES.items()),
    )
    questions: str | None = Field(
        default=None,
        description="With text: the questions, as one per line (.txt; asked of every document), JSON lines (.jsonl), "
        "or Parquet.",
        examples=["questions.txt"],
    )
    split: str | None = Field(default=None, description="With dataset: the split to read.", examples=["validation"])
    join: bool = Field(
        default=False,
        description="With squad: joins the paragraphs of an article into one long document.",
    )
    prefix: str = Field(
        default="",
        description="Text put before every document id, so that several sources can be one table.",
        examples=["nq/"],
    )
    columns: dict[str, str] = Field(
        default={},
        description="With dataset: qa-ray's name of a column, then the dataset's own.",
        examples=[{"text": "passage"}],
    )
    storage: StorageSettings = StorageSettings()
