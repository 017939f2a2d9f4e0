import subprocess
import sys


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(' '.join(name for name in sys.modules if '.' not in name))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_loads_neither_torch_nor_ray_nor_transformers():
    assert not loaded_by("import qa_ray") & {"torch", "ray", "transformers", "pyarrow"}


def test_the_command_line_reads_a_config_without_torch_or_ray():
    assert not loaded_by("import qa_ray.cli.main, qa_ray.config") & {"torch", "ray", "transformers"}


def test_the_stages_work_without_ray():
    assert "ray" not in loaded_by("import qa_ray.inference.reader")


def test_what_counts_for_a_run_needs_no_model():
    rooms = "runtime.run_stats", "runtime.progress", "answering.crash_guard", "runtime.datasource"
    loaded = loaded_by("import " + ", ".join(f"qa_ray.{room}" for room in rooms))
    assert not loaded & {"torch", "transformers"}
