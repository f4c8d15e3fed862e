"""`python -m effdl_nb` is another name of `effdl`."""

import sys

from .command.table import main

sys.exit(main())
