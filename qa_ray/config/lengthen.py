"""The config of ``qa-ray lengthen``."""

from pydantic import Field, PositiveInt

from qa_ray.config.sections import JobConfig, Place, StorageSettings


class LengthenConfig(JobConfig):
    """Converts a BERT or RoBERTa checkpoint to a Longformer with the same weights, to fine-tune on long documents."""

    verb = "lengthen"

    model: Place = Field(
        description="BERT or RoBERTa checkpoint, with or without a question-answering head: a folder, a URI, or a "
        "Hugging Face hub id, which ORG/NAME@REVISION pins.",
        examples=["google-bert/bert-base-uncased"],
    )
    output: Place = Field(description="Folder or URI of the new model; must be empty.", examples=["longformer"])
    max_tokens: PositiveInt = Field(default=4096, description="Longest input of the new model, in tokens.")
    attention_window: PositiveInt = Field(
        default=512, description="Number of tokens that each token attends to, half of them on either side; even."
    )
    storage: StorageSettings = StorageSettings()
