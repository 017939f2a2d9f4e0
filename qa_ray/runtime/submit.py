"""A job for a cluster, over Ray's Job API: the checked config travels, and with it this qa-ray if it is asked to.

Tokens and TLS are Ray's own: RAY_AUTH_MODE=token with RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, and an https address.
"""

import asyncio
import logging
import os
import re
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from ray.job_submission import JobSubmissionClient

import qa_ray
from qa_ray.config import Section
from qa_ray.errors import ConfigError, JobError

# What runs on the cluster finds its config under this name, in its working directory.
CONFIG = "config.yaml"
MODELS = ("model", "training.averaged_with")
TABLES = ("documents", "questions", "answers", "validation.documents", "validation.questions")
PLACES = (*TABLES, *MODELS, "source", "output")


class SubmittedJob:
    """A job at a cluster."""

    def __init__(self, client: Any, address: str, id_: str):
        self._client, self.address, self.id = client, address, id_

    @property
    def page(self) -> str:
        """Its page in Ray's dashboard."""
        return f"{self.address}/#/jobs/{self.id}"

    def follow(self, show: Callable[[str], object]) -> str:
        """Shows the job's log until it ends; returns how it ended: SUCCEEDED, FAILED or STOPPED."""

        async def follow() -> None:
            async for lines in self._client.tail_job_logs(self.id):
                show(lines)

        asyncio.run(follow())
        return str(self._client.get_job_status(self.id).value)


def submit(verb: str, config: Section, address: str, *, with_code: bool) -> SubmittedJob:
    """Starts ``qa-ray VERB`` with this config as a job of the cluster whose dashboard is at ``address``.

    ``with_code`` sends this installation of qa-ray along; else the nodes' own is used.

    Raises:
        ConfigError: a place that no node could read, or an address that is no URL.
        JobError: the cluster cannot be reached, or refuses.
    """
    values = config.model_dump(mode="json", exclude_unset=True)
    _check_places(values)
    client: Any = _connect(address)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / CONFIG).write_text(yaml.safe_dump(values, allow_unicode=True, sort_keys=False))
        environment = {"working_dir": folder, "env_vars": {"RAY_USAGE_STATS_ENABLED": "0"}}
        if with_code:
            environment["py_modules"] = [str(Path(qa_ray.__file__).parent)]
        try:
            id_ = client.submit_job(
                entrypoint=shlex.join(["python", "-m", "qa_ray", verb, CONFIG]),
                runtime_env=environment,
                metadata={"qa_ray": verb},
            )
        except Exception as error:  # requests' and Ray's own kinds
            raise JobError(f"--address {address!r}: the job was not taken: {_one_line(error)}") from error
    return SubmittedJob(client, address, id_)


def _check_places(values: dict[str, Any]) -> None:
    for name in PLACES:
        section, _, key = name.rpartition(".")
        found = (values.get(section, {}) if section else values).get(key)
        for place in found if isinstance(found, list) else [found]:
            if not isinstance(place, str) or "://" in place or place.startswith("/"):
                continue
            if name in MODELS and (place == "default" or not Path(place).exists()):  # the rest are hub ids
                continue
            raise ConfigError(
                f"{name}={place!r} is a place on this machine; a cluster needs one that all of its nodes reach, such "
                f"as s3://bucket/{Path(place).name}, or an absolute path on a shared mount"
            )


def _connect(address: str) -> Any:
    if not re.match(r"https?://", address):
        raise ConfigError(f"--address {address!r} is not the dashboard's URL; give one such as http://127.0.0.1:8265")
    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        os.environ.pop(name, None)  # to Ray they would weigh more than what was asked for
    try:
        return JobSubmissionClient(address)
    except Exception as error:  # requests' and Ray's own kinds
        raise JobError(
            f"--address {address!r}: cannot reach Ray's dashboard there ({_one_line(error)}); is it up, the port "
            "forwarded, and RAY_AUTH_MODE=token set with the cluster's token?"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
