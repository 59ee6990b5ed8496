"""The command line. Imports late: `--help` must not pay for torch or ray."""
