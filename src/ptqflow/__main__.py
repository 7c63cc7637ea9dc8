"""`python -m ptqflow` is the console command `ptqflow`."""

from ptqflow.cli import main

main()
