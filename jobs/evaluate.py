"""Runs ``qa-ray evaluate``: a script for ``ray job submit … -- python jobs/evaluate.py CONFIG.yaml [key=value …]``."""

import sys

from qa_ray.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
