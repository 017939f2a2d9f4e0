import importlib.metadata
import os
import subprocess
import sys

import qa_ray
from qa_ray.process import num_cores


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(' '.join(name for name in sys.modules if '.' not in name))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_loads_neither_torch_nor_ray_nor_transformers():
    assert not loaded_by("import qa_ray") & {"torch", "ray", "transformers", "pyarrow"}


def test_the_command_line_reads_a_config_without_torch_or_ray():
    assert not loaded_by("import qa_ray.cli.main, qa_ray.config") & {"torch", "ray", "transformers", "datasets"}


def test_the_settings_load_without_torch_or_transformers():
    assert not loaded_by("import qa_ray.inference.settings") & {"torch", "ray", "transformers", "datasets"}


def test_the_stages_work_without_ray():
    assert "ray" not in loaded_by("import qa_ray.inference.reader")


def test_run_statistics_and_the_crash_guard_need_no_model():
    modules = "runtime.run_stats", "runtime.progress", "answering.crash_guard", "runtime.datasource"
    loaded = loaded_by("import " + ", ".join(f"qa_ray.{module}" for module in modules))
    assert not loaded & {"torch", "transformers"}


def test_all_lists_exactly_the_public_names_and_each_can_be_imported():
    namespace: dict[str, object] = {}
    exec("from qa_ray import *", namespace)
    assert namespace.keys() - {"__builtins__"} == set(qa_ray.__all__) == {"Reader", "__version__", "read_answers"}
    assert sorted(qa_ray.__all__) == qa_ray.__all__ == dir(qa_ray)
    assert namespace["Reader"] is qa_ray.Reader


def test_the_version_is_that_of_the_installed_package():
    assert qa_ray.__version__ == importlib.metadata.version("qa-ray")


def threads_of_a_reader(statement: str, **variables: str) -> tuple[int, int]:
    """The threads of a Reader in a new process, and those that torch has there."""
    reader = "qa_ray.Reader('default', device='cpu', dtype='float32')"
    code = f"{statement}; reader = {reader}; import torch; print(reader.threads, torch.get_num_threads())"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")} | variables
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    threads, of_torch = map(int, done.stdout.split())
    return threads, min(of_torch, num_cores())


def test_a_reader_has_several_threads_only_if_they_wait_for_each_other_asleep():
    threads, most = threads_of_a_reader("import qa_ray")
    assert threads == most
    assert threads_of_a_reader("import torch, qa_ray")[0] == 1
    assert threads_of_a_reader("import torch, qa_ray", OMP_WAIT_POLICY="PASSIVE")[0] == most
