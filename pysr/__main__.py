"""python -m pysr is the command pysr."""

import sys

from pysr.cli import main

sys.exit(main())
