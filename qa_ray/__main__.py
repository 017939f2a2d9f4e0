"""``python -m qa_ray VERB CONFIG.yaml [key=value …]``: the same as ``qa-ray``."""

import sys

from qa_ray.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
