"""`python -m swwatch` is the console command."""

import sys

from swwatch.cli import main

if __name__ == "__main__":
    sys.exit(main())
