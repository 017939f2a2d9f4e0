"""Errors that Ray raises -> errors of this package, with the cause and the remedy in one line.

On its way to the driver Ray wraps an error several times: RayTaskError around what a task raised, Ray Data's and Ray
Train's own errors around that. An error in an actor's constructor arrives as text only, and Ray Data appends advice on
retries to the message. Whatever the wrapping, a QaRayError inside is what the user should read; any other error becomes
a JobError with its last line.
"""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import RayError

from qa_ray import errors
from qa_ray.errors import JobError, QaRayError
from qa_ray.log import LOG

# Where RayError, Ray Data and Ray Train keep what they wrap.
WRAPPED = ("cause", "controller_failure", "health_check_failure", "__cause__", "__context__")
# The lines that Ray Data appends to the message of an error in a task.
RETRY_ADVICE = re.compile(
    r"\nFailed to .+ after \d+/\d+ attempts .*"
    r"(\nThis looks like an AWS S3 permissions error\..*)?"
    r"(\nTo change retry attempts.*)?"
)
# A QaRayError in a formatted traceback: its line, and indented lines if the message continues there. Other text may
# follow: "During handling of the above exception …" and a second traceback, or what Ray says about the actor.
QA_RAY_ERROR = re.compile(r"^qa_ray\.errors\.(\w+): (.+(?:\n[ \t]+\S.*)*)", re.MULTILINE)


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
            message = RETRY_ADVICE.sub("", str(cause))
            return cause if message == str(cause) else type(cause)(message)
    text = RETRY_ADVICE.sub("", "".join(traceback.format_exception_only(error)))
    if raised := QA_RAY_ERROR.findall(text):
        name, message = raised[-1]
        return getattr(errors, name, JobError)(" ".join(message.split()))
    LOG.error("Ray raised: %s", error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return JobError(
        f"the job failed: {lines[-1]}; fix the cause (run.log in the output folder has the full error) and run the "
        "same command again: completed work is kept"
    )


def _causes(error: BaseException | None) -> list[BaseException]:
    """The error and what it wraps, outermost first."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = next((cause for name in WRAPPED if (cause := getattr(error, name, None))), None)
    return chain
