"""Errors that Ray raises -> errors of this package, with the cause and the remedy in one line.

On its way to the driver Ray wraps an error several times: RayTaskError around what a task raised, Ray Data's and Ray
Train's own errors around that. An error in an actor's constructor arrives as text only, and Ray Data appends advice on
retries to the message. Whatever the wrapping, a QaRayError inside is what the user should read; any other error becomes
a JobError with its first line, or with what happened in our own words. Ray's text goes to run.log.
"""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from ray import exceptions
from ray.exceptions import RayError

from qa_ray import errors
from qa_ray.errors import JobError, QaRayError
from qa_ray.log import DETAILS

# Where RayError, Ray Data and Ray Train keep what they wrap.
WRAPPED = ("cause", "controller_failure", "health_check_failure", "__cause__", "__context__")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # the colors in Ray's text
# A QaRayError in a formatted traceback: its line, and indented lines if the message continues there. Other text may
# follow: "During handling of the above exception …" and a second traceback, or what Ray says about the actor.
QA_RAY_ERROR = re.compile(r"^qa_ray\.errors\.(\w+): (.+(?:\n[ \t]+\S.*)*)", re.MULTILINE)
OTHER_ERROR = re.compile(
    r"^(?!ray\.)([A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Expired)\b(?:: .*)?)$", re.MULTILINE
)
# Of errors that have no cause but Ray: the first class that fits.
IN_OUR_WORDS = (
    (exceptions.OutOfMemoryError, "a node ran out of memory, so Ray ended a worker; use fewer actors or more memory"),
    ((exceptions.NodeDiedError, exceptions.ObjectLostError, exceptions.LocalRayletDiedError), "a node was lost"),
    ((exceptions.RayActorError, exceptions.WorkerCrashedError), "a worker process crashed, or was ended from outside"),
    (exceptions.GetTimeoutError, "a worker did not reply in time"),
    (exceptions.RuntimeEnvSetupError, "Ray could not set up a worker's environment"),
    (exceptions.TaskUnschedulableError, "no node has room for a worker"),
)
MAX_CHARS = 300  # of an error that is not ours


@contextmanager
def explained() -> Iterator[None]:
    """Turns what Ray raises in the block into a QaRayError; other exceptions of the driver pass unchanged.

    Raises:
        QaRayError: the error of this package that Ray wrapped.
        JobError: any other failure of Ray, of a worker or of the file system.
    """
    try:
        yield
    except Exception as error:
        # Ray Train's errors are no RayErrors; importing ray.train to name their class takes 0.4 s.
        if not (isinstance(error, (RayError, OSError)) or type(error).__module__.startswith("ray.train")):
            raise
        raise explain(error) from error


def explain(error: BaseException) -> QaRayError:
    """The QaRayError that Ray wrapped in ``error``, or a JobError with the error's last line."""
    # Of several workers that failed, the first: the others may only have lost their connection to it.
    error = next(iter(getattr(error, "worker_failures", {}).values()), error)
    for cause in _causes(error):
        if isinstance(cause, QaRayError) and not isinstance(cause, RayError):  # Ray makes classes that are both
            message = _own_lines(str(cause))
            return cause if message == str(cause) else type(cause)(message)
    text = ESCAPES.sub("", "".join(traceback.format_exception_only(error)))
    if raised := QA_RAY_ERROR.findall(text):
        name, message = raised[-1]
        return getattr(errors, name, JobError)(" ".join(message.split()))
    DETAILS.error("Ray raised: %s", error)
    return JobError(
        f"the job failed: {_what_happened(error, text)}; fix the cause (run.log in the output folder has the full "
        "error) and run the same command again: completed work is kept"
    )


def first_line(error: BaseException) -> str:
    """The first line of the error's message, or the name of its class."""
    lines = [line.strip() for line in ESCAPES.sub("", str(error)).splitlines() if line.strip()]
    return lines[0][:MAX_CHARS] if lines else type(error).__name__


def _own_lines(message: str) -> str:
    """A message of ours as one line: what follows it without indentation is Ray's."""
    return " ".join(re.split(r"\n(?![ \t])", ESCAPES.sub("", message))[0].split())


def _what_happened(error: BaseException, text: str) -> str:
    """An error that is not ours: the last one that ``text`` tells of, the innermost cause, or Ray's in our words."""
    if told := OTHER_ERROR.findall(text):
        return told[-1][:MAX_CHARS]
    others = [cause for cause in _causes(error) if not type(cause).__module__.startswith("ray")]
    if others:
        return f"{type(others[-1]).__name__}: {first_line(others[-1])}"
    words = [words for classes, words in IN_OUR_WORDS if any(isinstance(cause, classes) for cause in _causes(error))]
    return words[0] if words else f"Ray raised {type(error).__name__}"


def _causes(error: BaseException | None) -> list[BaseException]:
    """The error and what it wraps, outermost first."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = next((cause for name in WRAPPED if (cause := getattr(error, name, None))), None)
    return chain
