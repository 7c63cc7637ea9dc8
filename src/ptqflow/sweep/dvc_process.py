"""dvc in a process that ends with the one that started it: `python -m ptqflow.sweep.dvc_process`, arguments of dvc."""

import sys

from dvc.cli import main

from ptqflow.core.stage import die_with_parent

if __name__ == "__main__":
    die_with_parent("sweep")
    sys.exit(main(sys.argv[1:]))
