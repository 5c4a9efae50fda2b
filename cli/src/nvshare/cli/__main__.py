"""`python -m nvshare.cli`: the same as the `nvshare` command."""

import sys

from nvshare.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
