"""`python -m engram.report.parity`."""

from engram.report.parity import main

main()
