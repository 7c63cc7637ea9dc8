"""The console command as `python -m ptqflow`."""

from ptqflow.cli import main

if __name__ == "__main__":
    main()
