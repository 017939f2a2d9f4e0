"""A checked config -> a job on a Ray cluster, through Ray's Job API; this installation of qa-ray can be uploaded too.

Authentication and TLS are Ray's own: RAY_AUTH_MODE=token with RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, and an https
address.
"""

import asyncio
import logging
import os
import re
import shlex
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from ray.job_submission import JobSubmissionClient

import qa_ray
from qa_ray.config import JobConfig
from qa_ray.config.fields import SettingsSection, describe
from qa_ray.config.yaml_text import write_yaml
from qa_ray.errors import ConfigError, JobError

CONFIG_FILE = "config.yaml"  # in the working directory of the job
MODEL_KEYS = ("model", "training.averaged_with")  # whose values may also be ids on the hub
MAX_NAME_CHARS = 40  # of the output's name in a job's id


class SubmittedJob:
    """A job that was submitted to the cluster whose dashboard is at ``address``."""

    def __init__(self, client: Any, address: str, id_: str):
        self._client, self.address, self.id = client, address, id_

    @property
    def page(self) -> str:
        """The URL of its page in Ray's dashboard."""
        return f"{self.address}/#/jobs/{self.id}"

    def follow(self, show: Callable[[str], object]) -> str:
        """Passes the job's log to ``show`` until it ends; returns its final status: SUCCEEDED, FAILED or STOPPED.

        Raises:
            JobError: the connection to the dashboard was lost; the job goes on.
        """

        async def follow() -> None:
            async for lines in self._client.tail_job_logs(self.id):
                show(lines)

        try:
            asyncio.run(follow())
            return str(self._client.get_job_status(self.id).value)
        except Exception as error:  # of types of aiohttp, requests and Ray
            raise JobError(
                f"--address {self.address!r}: lost the log of job {self.id} ({_one_line(error)}); the job goes on: see "
                f"{self.page}"
            ) from error


def submit(verb: str, config: JobConfig, address: str, *, with_code: bool, check: bool = False) -> SubmittedJob:
    """Starts ``qa-ray VERB`` with this config as a job on the cluster whose dashboard is at ``address``.

    ``with_code`` uploads this installation of qa-ray; otherwise the job uses the one installed on the nodes. With
    ``check``, the job is ``qa-ray VERB --check``.

    Raises:
        ConfigError: a local path that the nodes cannot read, or an address that is not a URL.
        JobError: the cluster cannot be reached, or refuses the job.
    """
    values = config.model_dump(mode="json", exclude_unset=True)
    _check_paths(values, path_keys(describe(type(config))))
    client: Any = _connect(address)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / CONFIG_FILE).write_text(write_yaml(values), encoding="utf-8")
        environment = {
            "working_dir": folder,
            "env_vars": {"RAY_USAGE_STATS_ENABLED": "0", "OMP_WAIT_POLICY": "PASSIVE"},
        }
        if with_code:
            environment["py_modules"] = [str(Path(qa_ray.__file__).parent)]
        try:
            id_ = client.submit_job(
                entrypoint=shlex.join(["python", "-m", "qa_ray", verb, CONFIG_FILE, *(["--check"] if check else [])]),
                submission_id=new_id(verb, str(values.get("output", "")), check=check),
                runtime_env=environment,
                metadata={"qa_ray": verb},
            )
        except Exception as error:  # of types of requests and of Ray
            raise JobError(f"--address {address!r}: the cluster refused the job: {_one_line(error)}") from error
    return SubmittedJob(client, address, id_)


def new_id(verb: str, output: str, *, check: bool = False) -> str:
    """A new id, to recognize the job by in Ray's list, such as ``qa-ray-answer-contracts-20261124T101500-3f9a``."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", output.rstrip("/").rpartition("/")[2]).strip("-.")[:MAX_NAME_CHARS]
    time_of_day = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    parts = ["qa-ray", verb, "check" if check else "", name, time_of_day, uuid4().hex[:4]]
    return "-".join(filter(None, parts))


def path_keys(section: SettingsSection, prefix: str = "") -> Iterator[str]:
    """The keys of all settings that are paths or URIs, or lists of them."""
    yield from (prefix + setting.name for setting in section.settings if "path or URI" in setting.type)
    for inner in section.sections:
        yield from path_keys(inner, f"{prefix}{inner.name}.")


def _check_paths(values: dict[str, Any], keys: Iterable[str]) -> None:
    for dotted_key in keys:
        section, _, key = dotted_key.rpartition(".")
        value = (values.get(section, {}) if section else values).get(key)
        for path in value if isinstance(value, list) else [value]:
            if not isinstance(path, str) or "://" in path or path.startswith("/"):
                continue
            if dotted_key in MODEL_KEYS and (path == "default" or not Path(path).exists()):  # a model id on the hub
                continue
            raise ConfigError(
                f"{dotted_key}={path!r} is a path on this machine; a cluster needs one that all of its nodes can "
                f"read, such as s3://bucket/{Path(path).name}, or an absolute path on a shared mount"
            )


def _connect(address: str) -> Any:
    if not re.match(r"https?://", address):
        raise ConfigError(f"--address {address!r} is not the dashboard's URL; give one such as http://127.0.0.1:8265")
    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging"):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        os.environ.pop(name, None)  # in Ray they take precedence over the address that is passed
    try:
        return JobSubmissionClient(address)
    except Exception as error:  # of types of requests and of Ray
        raise JobError(
            f"--address {address!r}: cannot reach Ray's dashboard there ({_one_line(error)}); check that it is up, the "
            "port is forwarded, and RAY_AUTH_MODE=token is set with the cluster's token"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]
