"""Draws demo.svg from the answers of `make demo`: python docs/images/demo.py"""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 92
COMMAND = ["answer", "configs/demo/answer.yaml", "preview=5"]  # finished: it prints the answers and runs nothing
# Without the font that rich would load from a server.
STYLE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def main() -> None:
    environment = os.environ | {"FORCE_COLOR": "1", "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "qa_ray", *COMMAND]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    answers = re.split(r"\n\S*24\S* answers and", printed)[0].rstrip()  # without counts and places
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text("$ make demo\n", style="bold"))
    console.print(Text.from_ansi(answers))
    svg = STYLE.sub("", console.export_svg(title="qa-ray", unique_id="demo"))
    Path(__file__).with_name("demo.svg").write_text(svg.replace("Fira Code, ", ""), encoding="utf-8")


if __name__ == "__main__":
    main()
