"""The wheel and the sdist, each installed where the repository is not on the path: make test-package.

The environments are new and hold qa-ray alone; a .pth file makes the dependencies of the running environment visible,
which saves minutes of downloads. The editable installation there stays inactive: .pth files are not followed further.
"""

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from running import DOCUMENT, QUESTION

from qa_ray import __version__

REPOSITORY = Path(__file__).parents[2]
PACKAGE_DATA = {
    "qa_ray/py.typed",
    "qa_ray/assets/default_model/model.safetensors",
    "qa_ray/assets/default_model/tokenizer.json",
    "qa_ray/assets/default_model/qa_ray.json",
    "qa_ray/assets/demo/questions.jsonl",
    "qa_ray/assets/demo/documents/lease.txt",
    "qa_ray/assets/templates/evaluation.html",
}
# Neither the repository nor what it set for its tests may help: only the environment that is tested.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The sdist, built from the repository, and the wheel, built from the sdist."""
    folder = tmp_path_factory.mktemp("distributions")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, REPOSITORY, cwd=folder)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


def install(distribution: Path, environment: Path) -> Path:
    """The folder of the commands of a new environment with this distribution."""
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment.parent)
    (packages,) = environment.glob("lib/*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    python = environment / "bin" / "python"
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", *options, distribution, cwd=environment.parent)
    return environment / "bin"


@pytest.fixture(scope="module")
def commands(distributions: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of the commands of an environment for each distribution."""
    folder = tmp_path_factory.mktemp("environments")
    return {name: install(distribution, folder / name) for name, distribution in distributions.items()}


def test_the_wheel_holds_the_package_with_its_data_and_nothing_else(distributions: dict[str, Path]):
    with zipfile.ZipFile(distributions["wheel"]) as wheel:
        names = set(wheel.namelist())
    assert names > PACKAGE_DATA
    modules = {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "qa_ray").rglob("*.py")}
    assert names > modules
    assert {name.partition("/")[0] for name in names} == {"qa_ray", f"qa_ray-{__version__}.dist-info"}
    assert f"qa_ray-{__version__}.dist-info/licenses/LICENSE" in names


def test_the_sdist_holds_what_builds_the_package_and_no_tests(distributions: dict[str, Path]):
    with tarfile.open(distributions["sdist"]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert names > PACKAGE_DATA | {"README.md", "LICENSE", "constraints.txt", "pyproject.toml"}
    assert not any(name.startswith("tests") for name in names)


def test_both_install_the_same_files(commands: dict[str, Path]):
    """So what holds of one installation holds of the other."""
    installed = {name: hashes(folder) for name, folder in commands.items()}
    assert installed["sdist"] == installed["wheel"]


def hashes(commands: Path) -> set[str]:
    """The lines of the installation's RECORD about the package: path, sha256 and size of every file."""
    (record,) = commands.parent.glob(f"lib/*/site-packages/qa_ray-{__version__}.dist-info/RECORD")
    return {line for line in record.read_text().splitlines() if line.startswith("qa_ray/") and ".pyc," not in line}


@pytest.mark.parametrize("distribution", ["wheel", "sdist"])
def test_an_installed_package_starts_without_the_repository(
    commands: dict[str, Path], tmp_path: Path, distribution: str
):
    folder = commands[distribution]
    version = f"qa-ray {__version__}\n"
    assert run(folder / "qa-ray", "--version", cwd=tmp_path) == version
    assert run(folder / "python", "-m", "qa_ray", "--version", cwd=tmp_path) == version
    imported = run(folder / "python", "-c", "import qa_ray; print(qa_ray.__file__)", cwd=tmp_path)
    assert Path(imported.strip()).is_relative_to(folder.parent)
    assert "documents:" in run(folder / "qa-ray", "init", "answer", cwd=tmp_path)


def test_the_reader_of_an_installed_package_answers_with_the_default_model(commands: dict[str, Path], tmp_path: Path):
    code = (
        "import json, qa_ray\n"
        f"question, text = {QUESTION['question']!r}, {DOCUMENT['text']!r}\n"
        "reader = qa_ray.Reader('default', device='cpu', dtype='float32')\n"
        "print(json.dumps(reader.answer(question, text)))"
    )
    assert json.loads(run(commands["wheel"] / "python", "-c", code, cwd=tmp_path))["answer"] == "Ada Vane"


def test_a_job_of_an_installed_package_runs_from_the_config_that_init_prints(commands: dict[str, Path], tmp_path: Path):
    for name, row in (("documents", DOCUMENT), ("questions", QUESTION)):
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / f"{name}.parquet")
    (tmp_path / "answer.yaml").write_text(run(commands["wheel"] / "qa-ray", "init", "answer", cwd=tmp_path))
    own = ("documents=documents.parquet", "questions=questions.parquet", "output=answers", "runner.dtype=float32")
    run(commands["wheel"] / "qa-ray", "answer", "answer.yaml", *own, cwd=tmp_path)
    (answer,) = pq.read_table(tmp_path / "answers" / "answers").to_pylist()
    assert answer["answer"] == "Ada Vane"
    assert (tmp_path / "answers" / "_SUCCESS").is_file()
