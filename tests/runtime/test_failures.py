"""Errors as Ray raises them, turned into errors of qa-ray."""

import logging

import pytest
from ray.exceptions import (
    ActorDiedError,
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayError,
    RaySystemError,
    RayTaskError,
    WorkerCrashedError,
)
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from qa_ray.errors import InputError, JobError, ModelError, OutputError
from qa_ray.runtime.failures import explained

REMEDY = "; fix the cause (run.log in the output folder has the full error) and run the same command again: completed"


def task_error(cause: Exception, text: str) -> RayTaskError:
    """What Ray raises for an exception in a task, with its traceback as Ray formats it."""
    return RayTaskError("read()", f'Traceback (most recent call last):\n  File "x.py"\n{text}', cause, "ray", 1, "::1")


def chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


MESSAGE = "documents: no column 'text'"
ADVICE = "\nFailed to apply UDF transform after 1/1 attempts (total backoff 0.0s).\nTo change retry attempts, configure"
S3_ADVICE = ADVICE.replace("\nTo", "\nThis looks like an AWS S3 permissions error. Make sure your credentials\nTo")
DURING_HANDLING = (
    "\n\nDuring handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n"
)
WRAPPED = {
    "a task's error": task_error(InputError(MESSAGE), f"qa_ray.errors.InputError: {MESSAGE}"),
    "the class that Ray makes of both": task_error(InputError(MESSAGE), MESSAGE).as_instanceof_cause(),
    "Ray Data's wrapping": chained(RayError("failed"), task_error(InputError(MESSAGE), MESSAGE)),
    "Ray Data's advice": task_error(InputError(MESSAGE + ADVICE), MESSAGE + ADVICE).as_instanceof_cause(),
    "Ray Data's advice, as text": ActorDiedError(
        task_error(ValueError(), f"qa_ray.errors.InputError: {MESSAGE}{ADVICE}")
    ),
    "a worker of Ray Train": WorkerGroupError("failed", {0: InputError(MESSAGE), 1: KeyError("x")}),
    "a task of Ray Train": WorkerGroupError("failed", {0: task_error(InputError(MESSAGE), MESSAGE)}),
    "Ray Train's controller": ControllerError(chained(RuntimeError("failed"), InputError(MESSAGE))),
    "an actor's constructor, as text": ActorDiedError(
        task_error(ValueError(), f"qa_ray.errors.ModelError: an earlier one\n\nqa_ray.errors.InputError: {MESSAGE}")
    ),
    "text, before another traceback": ActorDiedError(
        task_error(KeyError("x"), f"qa_ray.errors.InputError: {MESSAGE}{DURING_HANDLING}  File \"y.py\"\nKeyError: 'x'")
    ),
    "text of Ray's behind it, in colors": task_error(
        InputError(
            f"{MESSAGE}\n\nThe above exception was the direct cause of the following exception:\n\n"
            "\x1b[36mray::MapWorker(ReadFiles).submit()\x1b[39m (pid=1, ip=::1)\n  File x\nretried_io_errors"
        ),
        MESSAGE,
    ),
    "text, before a sentence of Ray's": ActorDiedError(
        task_error(ValueError(), f"qa_ray.errors.InputError: {MESSAGE}\nThe actor never ran - it was cancelled.")
    ),
    "text, after an earlier error with Ray Data's advice": ActorDiedError(
        task_error(
            ValueError(),
            f"qa_ray.errors.ModelError: an earlier one{S3_ADVICE}{DURING_HANDLING}qa_ray.errors.InputError: {MESSAGE}",
        )
    ),
}


@pytest.mark.parametrize("error", WRAPPED.values(), ids=WRAPPED)
def test_the_error_that_ray_wraps_is_raised(error: Exception):
    with pytest.raises(InputError) as raised, explained():
        raise error
    assert str(raised.value) == MESSAGE
    assert not isinstance(raised.value, RayError)


def test_a_message_of_several_lines_becomes_one_line():
    with pytest.raises(ModelError, match=r"^model 'x': no such folder$"), explained():
        raise ActorDiedError(task_error(ValueError(), "qa_ray.errors.ModelError: model 'x':\n  no such folder"))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (task_error(KeyError("x"), "KeyError: 'x'"), "KeyError: 'x'"),
        (task_error(KeyError("x"), "KeyError: 'x'").as_instanceof_cause(), "KeyError: 'x'"),
        (task_error(KeyError("x"), f"KeyError: 'x'{ADVICE}"), "KeyError: 'x';"),
        (task_error(KeyError("x"), f"KeyError: 'x'{S3_ADVICE}"), "KeyError: 'x';"),
        (task_error(EOFError(), f"KeyError: 'x'{ADVICE}{DURING_HANDLING}EOFError: end"), "EOFError: end;"),
        (task_error(KeyError("x"), f"\x1b[36mray::Map()\x1b[39m (pid=1)\nKeyError: 'x'{ADVICE}"), "KeyError: 'x';"),
        (
            task_error(RuntimeError(), "RuntimeError: CUDA error: no\nCUDA kernel errors"),
            "RuntimeError: CUDA error: no;",
        ),
        (WorkerCrashedError(), "a worker process crashed, or was ended from outside;"),
        (ActorDiedError(), "a worker process crashed, or was ended from outside;"),
        (OutOfMemoryError("Task was killed due to the node running low on memory.\nMemory on the node"), "a node ran "),
        (NodeDiedError("node 10.0.0.1"), "a node was lost;"),
        (ObjectLostError("ab", b"cd", "ef"), "a node was lost;"),
        (GetTimeoutError("Get timed out: some object(s) not ready."), "a worker did not reply in time;"),
        (RaySystemError("System error: it\x1b[0m"), "Ray raised RaySystemError;"),
        (OSError(28, "No space left on device"), "OSError: [Errno 28] No space left on device"),
        (WorkerGroupError("failed", {1: FloatingPointError("not finite"), 0: EOFError()}), "FloatingPointError: not "),
        (ControllerError(TimeoutError("no node")), "TimeoutError: no node;"),
        (ActorDiedError(task_error(MemoryError(), "MemoryError")), "MemoryError"),
        (ActorDiedError(task_error(ValueError(), "qa_ray.errors.UnknownError: a message")), None),
    ],
    ids=str,
)
def test_any_other_failure_is_a_job_error_with_its_last_line(
    error: Exception, reason: str | None, caplog: pytest.LogCaptureFixture
):
    logging.getLogger("qa_ray").propagate = True
    with pytest.raises(JobError) as raised, explained():
        raise error
    if reason:
        assert str(raised.value).startswith(f"the job failed: {reason}")
        assert REMEDY in str(raised.value)
        assert "Ray raised: " in caplog.text
    else:
        assert str(raised.value) == "a message"
    assert "\n" not in str(raised.value)
    assert "\x1b" not in str(raised.value)
    assert "attempts" not in str(raised.value)


@pytest.mark.parametrize("error", [OutputError("disk full"), TypeError("a mistake of ours"), KeyboardInterrupt()])
def test_errors_that_are_not_rays_pass_unchanged(error: BaseException):
    with pytest.raises(type(error)) as raised, explained():
        raise error
    assert raised.value is error
