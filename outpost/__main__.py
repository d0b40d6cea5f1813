"""`python -m outpost` is the command `outpost`."""

import sys

from outpost.cli.main import main

sys.exit(main())
