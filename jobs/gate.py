"""Runs ``qa-ray gate``: a script for ``ray job submit … -- python jobs/gate.py CONFIG.yaml [key=value …]``."""

import sys

from qa_ray.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["gate", *sys.argv[1:]]))
