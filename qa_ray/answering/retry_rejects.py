"""Which questions a retry of the rejects of a finished output asks again, and of which documents."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from qa_ray.answering.commit import read_rejects
from qa_ray.io.document_table import DocumentTable, document_hashes
from qa_ray.io.id_hashes import hash_ids
from qa_ray.io.id_types import id_strings, ids_of_type
from qa_ray.io.question_table import QuestionTable
from qa_ray.io.row_checks import NOT_RETRIED
from qa_ray.output.folder import OutputFolder


def rejected_questions(output: OutputFolder) -> QuestionTable:
    """The (document, question) pairs, without texts, that ``output`` rejected and that can be asked again."""
    rejects = read_rejects(output, output.manifest())
    rejects = rejects.filter(~pc.field("reason").isin(sorted(NOT_RETRIED)))
    ids = {name: id_strings(rejects[name]) for name in ("document_id", "question_id")}
    return QuestionTable(pa.table({**ids, "question": pa.nulls(rejects.num_rows, pa.large_string())}))


def documents_without(documents: DocumentTable, questions: QuestionTable) -> np.ndarray:
    """The hashes, sorted, of the ids of all documents that none of these bound questions is asked about."""
    ids = ids_of_type(questions.bound_ids.unique(), documents.id_type).drop_null()
    return np.setdiff1d(document_hashes(documents), hash_ids(ids, documents.hash_key) if len(ids) else [])
