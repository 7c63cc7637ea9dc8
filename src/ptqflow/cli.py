"""The console command `ptqflow`.

A command is a function `_add_<command>` that says what it takes and a function `_<command>` that does it and imports
what it needs when it is called. Results go to stdout, one line about each mistake to stderr.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ptqflow.core.errors import PtqflowError, describe_os_error
from ptqflow.runtime.runtimes import RUNTIMES

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def main() -> None:
    """Run the command that the command line names; exit with 0, 1 after an error, 2 for wrong usage."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of torch's own, of what it means to remove
    # As of any command: Ctrl-C ends it at once, and so does the end of what it writes to, such as `head`.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command; return its exit status."""
    _write_any_name(sys.stdout, sys.stderr)
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except PtqflowError as error:
        complain(str(error))
    except OSError as error:
        complain(describe_os_error(error))
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        complain(f"the package {package} is not installed: `pip install '.[pipeline]'` in a clone of ptqflow brings it")
    return 1


def complain(message: str) -> None:
    """Print one line on stderr."""
    print("ptqflow:", " ".join(message.split()), file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ptqflow",
        description="Use and compare INT8 models that the pipeline of ptqflow has exported.",
        epilog="`ptqflow COMMAND --help` tells more. Exit status: 0, 1 after an error, 2 for wrong usage.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_predict(commands)
    _add_inspect(commands)
    _add_verify(commands)
    _add_compare(commands)
    return parser


def _add_command(
    commands: "Commands", command: Callable[[argparse.Namespace], int], summary: str, details: str
) -> argparse.ArgumentParser:
    """Add the command that is named as its function is."""
    parser = commands.add_parser(
        command.__name__.removeprefix("_"),
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=details,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=command)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", type=Path, help="an exported model, such as models/export")


def _add_predict(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        _predict,
        "classify images",
        """\
examples:
  ptqflow predict models/export cat.jpg
  ptqflow predict models/export photos/ -k 1
  ptqflow predict models/export photos/ --json > predictions.jsonl
  ptqflow predict models/export cat.jpg --runtime torchscript

An image may be of any format, mode and size that Pillow reads. In folders, and folders in them, every file with the
suffix of an image format is taken; hidden ones are left out, and others with a note on stderr. What cannot be read is
one line on stderr, the others are answered, and the exit status is 1.

--json prints one object a line: {"image": ..., "top": [{"class": ..., "probability": ...}, ...]}""",
    )
    _add_model(parser)
    parser.add_argument("images", metavar="IMAGE", type=Path, nargs="+", help="an image, or a folder with images")
    parser.add_argument("-k", type=_positive, default=5, help="how many classes to print, the most probable first (5)")
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line")
    parser.add_argument(
        "--runtime", choices=RUNTIMES, help="what runs the model; else the first of these that is installed and can"
    )


def _predict(options: argparse.Namespace) -> int:
    from ptqflow.inference.classifier import load_classifier
    from ptqflow.inference.predict import predict

    classifier = load_classifier(options.model, options.runtime, complain)
    failures: list[str] = []

    def fail(message: str) -> None:
        failures.append(message)
        complain(message)

    for prediction in predict(classifier, options.images, options.k, fail, complain):
        print(json.dumps(prediction.as_json()) if options.json else prediction.as_text(), flush=True)
    return 1 if failures else 0


def _add_inspect(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        _inspect,
        "tell what a model is and check the hashes of its files",
        """\
examples:
  ptqflow inspect models/export
  ptqflow inspect models/export --json

Prints classes, input, figures on the test images, files, and each layer with the precision, scale and zero point of its
output. A file that is missing or changed is one line on stderr, and the exit status is 1.

--json prints the manifest as it is.""",
    )
    _add_model(parser)
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")


def _inspect(options: argparse.Namespace) -> int:
    from ptqflow.inference.inspection import describe, find_changed_files
    from ptqflow.runtime.manifest import read_manifest

    manifest = read_manifest(options.model)
    wrong = find_changed_files(options.model, manifest)
    if options.json:
        print(manifest.model_dump_json(indent=2))
    else:
        for line in describe(manifest, wrong):
            print(line)
    for message in wrong.values():
        complain(message)
    return 1 if wrong else 0


def _add_verify(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        _verify,
        "check that a model computes on this machine what it was exported to compute",
        """\
examples:
  ptqflow verify models/export
  ptqflow verify models/export --data data/dataset

Checks the hashes of all files, then runs generated images through every runtime that is installed and through the INT8
graph in float arithmetic, which needs ONNX Runtime and nothing of the CPU. A runtime passes if its logits are nearer to
those than INT8 is to FP32, or within 1 % (40 dB); SQNR is the power of the logits over that of the difference.

With --data, the gate of the stage `export` is run again on the test images: ONNX Runtime must predict what torch does,
OpenVINO for 98 % of them, and neither may be right for a significantly other share of them.

A runtime that fails is one line on stderr, and the exit status is 1.""",
    )
    _add_model(parser)
    parser.add_argument("--data", metavar="DATASET", type=Path, help="what `fetch` wrote, such as data/dataset")
    parser.add_argument(
        "--min-agreement",
        metavar="SHARE",
        type=_share,
        default=0.995,
        help="with --data: share of the test images for which ONNX Runtime must predict what torch does (0.995)",
    )


def _verify(options: argparse.Namespace) -> int:
    from ptqflow.inference.verification import verify
    from ptqflow.runtime.manifest import read_manifest

    failed = False
    for finding in verify(options.model, read_manifest(options.model), options.data, options.min_agreement):
        if finding.passed is False:
            failed = True
            complain(str(finding))
        else:
            print(finding, flush=True)
    return 1 if failed else 0


def _add_compare(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        _compare,
        "compare the INT8 models of two git revisions, image by image",
        """\
examples:
  ptqflow compare HEAD~1 HEAD
  ptqflow compare main my-branch --json

Run it in the repository. What the models predicted for the test images comes from DVC's cache or remote. Prints the
paired test, and the classes and the images about which the models differ.

--json prints all of it, with every image that changed.""",
    )
    parser.add_argument("revisions", metavar="REVISION", nargs=2, help="a commit, branch, tag or experiment")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _compare(options: argparse.Namespace) -> int:
    from ptqflow.compare import compare_revisions

    comparison = compare_revisions(*options.revisions)
    print(json.dumps(comparison.as_json(), indent=2) if options.json else comparison.as_text())
    return 0


class _Version(argparse.Action):
    """Looks the version up only where it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"ptqflow {version('ptqflow')}")
        parser.exit()


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share above 0, up to 1")
    return share


def _write_any_name(*streams: TextIO) -> None:
    """Escape what a stream cannot encode: file names are bytes, and need not be UTF-8."""
    for stream in streams:
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
