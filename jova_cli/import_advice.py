"""Importing this, before all that loads torch, hides what bitsandbytes advises while it is imported.

It names a package for faster products of 4 bits, in every program, also where nothing has 4 bits.
"""

import logging


logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
