"""`python -m slam`: the same as the command `slam`."""

import sys

from slam.cli import main

if __name__ == "__main__":
    sys.exit(main())
