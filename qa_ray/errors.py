"""What can go wrong, drawn as a tree.

    QaRayError
    ├── UserError (also a ValueError)    something that the user can put right; nothing was lost
    │   ├── ConfigError                  a setting: unknown, of the wrong type, or at odds with another
    │   ├── InputError                   documents, questions, answers: a path, a column, a type, an id
    │   ├── ModelError                   a checkpoint that cannot be used for question answering
    │   └── OutputError                  the place of the results: taken by another run, not writable
    └── JobError (also a RuntimeError)   the job ran and cannot promise its result (counts, too many rejects)

Every message gives the value, the place and the remedy.
"""


class QaRayError(Exception):
    """The root of all errors that qa-ray raises on purpose."""


class UserError(QaRayError, ValueError):
    """A mistake in what was asked; the message says how to mend it."""


class ConfigError(UserError):
    """A setting is unknown, has the wrong type, or does not fit another one."""


class InputError(UserError):
    """A table, file, column or id of the input cannot be used."""


class ModelError(UserError):
    """A model cannot be found or is no extractive QA checkpoint."""


class OutputError(UserError):
    """The output's place cannot be written or belongs to another run."""


class JobError(QaRayError, RuntimeError):
    """The job ran, but cannot stand for its result."""
