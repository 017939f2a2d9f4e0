"""All errors that qa-ray raises on purpose.

    QaRayError
    ├── UserError (also a ValueError)    the user can fix it; no results were lost
    │   ├── ConfigError                  a setting: unknown, of the wrong type, or in conflict with another
    │   ├── InputError                   the input: a path, a column, a type, an id
    │   ├── ModelError                   a checkpoint that cannot be used for question answering
    │   └── OutputError                  the output folder: in use by another run, or not writable
    └── JobError (also a RuntimeError)   the job ran, but its result is incomplete or wrong

Every message gives the value, the place and the remedy.
"""


class QaRayError(Exception):
    """Base class of all errors that qa-ray raises on purpose."""


class UserError(QaRayError, ValueError):
    """A mistake in the input or the configuration; the message says how to fix it."""


class ConfigError(UserError):
    """A setting is unknown, has the wrong type, or conflicts with another."""


class InputError(UserError):
    """A table, file, column or id of the input cannot be used."""


class ModelError(UserError):
    """A model cannot be found, or is not a checkpoint for extractive question answering."""


class OutputError(UserError):
    """The output folder cannot be written, or belongs to another run."""


class JobError(QaRayError, RuntimeError):
    """The job ran, but its result is incomplete or wrong: counts do not match, or there are too many rejects."""
