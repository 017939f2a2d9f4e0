"""Pages of the documentation: their commands with the outputs that they show."""

import os
import re
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"^```sh\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)
# What differs from run to run and from machine to machine.
VOLATILE = re.compile(
    r"in [\d,]+ s\b|, [\d.,]+ windows/s once the model was loaded|default \(\w{12}\)|│ actors │ [^│]*│|[─━]+"
)
DECIMAL = re.compile(r"\d+\.\d+")
TOLERANCE = 0.05  # between the scores of bfloat16 and float32


def commands_and_outputs(page: Path) -> list[tuple[str, str]]:
    """The shell blocks of a page, each with the output shown below it or an empty string."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def run_commands(commands: str, folder: str) -> str:
    """The standard output of shell commands that run in ``folder``, with this environment's ``qa-ray``."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "100"}
    done = subprocess.run(
        ["bash", "-e", "-c", commands], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()).strip("\n") + "\n"


def agree(shown: str, printed: str) -> bool:
    """Whether the words are the same, and numbers with a decimal point differ by no more than TOLERANCE."""
    texts = [VOLATILE.sub("", " ".join(text.split())) for text in (shown, printed)]
    if len({DECIMAL.sub("#", text) for text in texts}) > 1:
        return False
    pairs = zip(*(map(float, DECIMAL.findall(text)) for text in texts), strict=True)
    return all(abs(a - b) <= TOLERANCE for a, b in pairs)
