"""`python -m services`, the same as `tafs`: for job submission, where no console script is installed."""

from services.cli.main import main

main()
