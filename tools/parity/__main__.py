"""`python -m tools.parity`."""

from tools.parity.main import main

main()
