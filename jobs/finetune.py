"""Runs ``qa-ray finetune``: a script for ``ray job submit … -- python jobs/finetune.py CONFIG.yaml [key=value …]``."""

import sys

from qa_ray.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["finetune", *sys.argv[1:]]))
