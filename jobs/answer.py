"""Runs ``qa-ray answer``: a script for ``ray job submit … -- python jobs/answer.py CONFIG.yaml [key=value …]``."""

import sys

from qa_ray.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["answer", *sys.argv[1:]]))
