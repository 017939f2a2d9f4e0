"""``qa-ray answer CONFIG.yaml [key=value …]``, for ``ray job submit … -- python jobs/answer.py CONFIG.yaml``."""

import sys

from qa_ray.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["answer", *sys.argv[1:]]))
