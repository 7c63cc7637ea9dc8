"""The console command `ptqflow`."""

import argparse


def main() -> None:
    """Read the command line and run the command that it names."""
    parser = argparse.ArgumentParser(prog="ptqflow", description="Use and compare INT8 models.")
    parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    parser.parse_args()


if __name__ == "__main__":
    main()
