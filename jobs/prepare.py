"""Runs ``qa-ray prepare``: a script for ``ray job submit … -- python jobs/prepare.py CONFIG.yaml [key=value …]``."""

import sys

from qa_ray.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["prepare", *sys.argv[1:]]))
