"""Filter PE-Video into train and test annotations: python mani_data.py --help"""

import sys
from functools import partial
from pathlib import Path

HOME = Path(__file__).resolve().parent
sys.path.insert(0, str(HOME))  # so that no installation is needed

from swwatch.cli import run  # noqa: E402
from swwatch.data.prepare import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(run(partial(main, home=HOME), sys.argv[1:]))
