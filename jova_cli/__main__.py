"""`python -m jova_cli` is `jova`."""

from .main import main


main()
