"""Filter PE-Video into train and test annotations: python mani_data.py --help"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # so that no installation is needed

from swwatch.data.prepare.command import main  # noqa: E402
from swwatch.errors import run  # noqa: E402

if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
