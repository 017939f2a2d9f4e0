"""``qa-ray lengthen CONFIG.yaml [key=value …]``, for ``ray job submit … -- python jobs/lengthen.py CONFIG.yaml``."""

import sys

from qa_ray.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["lengthen", *sys.argv[1:]]))
