"""The config of ``qa-ray prepare``."""

from typing import Annotated

from pydantic import Field

from qa_ray.config.sections import JobConfig, OneOf, Place, Section, StorageSettings
from qa_ray.preparation.sources import SOURCES


class PrepareLimits(Section):
    """When the job gives up."""

    max_rejected_fraction: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="Largest share of rejects among all documents and questions; more of them fail the job: the "
        "rejects are written, the tables are not. Of few documents, always as many as one of them has on average. "
        "0: none.",
    )


class PrepareConfig(JobConfig):
    """Makes the two tables that every job reads, documents and questions, from files or a dataset."""

    verb = "prepare"

    source: Place = Field(
        description="SQuAD JSON (v1 or v2), a folder of text files, a table with a question per row (JSON lines, JSON, "
        "CSV, TSV, Parquet, Arrow), or the hub id of a dataset. A file, a folder or a glob; what is not read is named.",
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
    questions: Place | None = Field(
        default=None,
        description="With text: the questions, as one per line (.txt; asked about every document), or a table with a "
        "question per row (JSON lines, CSV, Parquet).",
        examples=["questions.txt"],
    )
    split: str | None = Field(default=None, description="With dataset: the split to read.", examples=["validation"])
    encoding: str | None = Field(
        default=None,
        description="Encoding of the files that are not UTF-8 and have no byte order mark. If unset, such text files "
        "become rejects, and such tables are errors.",
        examples=["cp1252"],
    )
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
    limits: PrepareLimits = PrepareLimits()
    storage: StorageSettings = StorageSettings()
