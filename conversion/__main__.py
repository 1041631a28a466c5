"""Convert other people's weights: `python -m conversion KIND SOURCE OUTPUT`."""

import sys

from diffusers_jova.conversion.convert import main


sys.argv[0] = "python -m conversion"  # what its help and its errors are headed with
main(sys.argv[1:])
