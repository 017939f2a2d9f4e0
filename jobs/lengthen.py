"""Runs ``qa-ray lengthen``: a script for ``ray job submit … -- python jobs/lengthen.py CONFIG.yaml [key=value …]``."""

import sys

from qa_ray.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["lengthen", *sys.argv[1:]]))
