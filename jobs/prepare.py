"""``qa-ray prepare CONFIG.yaml [key=value …]``, for ``ray job submit … -- python jobs/prepare.py CONFIG.yaml``."""

import sys

from qa_ray.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["prepare", *sys.argv[1:]]))
