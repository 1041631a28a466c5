"""Convert other people's weights: `python -m conversion KIND SOURCE OUTPUT`."""

import sys

from conversion.convert import main


main(sys.argv[1:])
