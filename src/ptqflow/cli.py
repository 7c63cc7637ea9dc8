"""The console command `ptqflow`.

A command is a function `_add_<command>`, which adds its arguments, and a function `_<command>`, which runs it and
imports what it needs when it is called. Results are printed on stdout, errors on stderr, one line each.
"""

import argparse
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ptqflow.core.errors import PtqflowError, describe_os_error
from ptqflow.core.printable import printable
from ptqflow.runtime.runtimes import BY_DEFAULT, RUNTIMES

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def main() -> None:
    """Run the command that the command line names; exit with 0, 1 after an error, 2 for wrong usage."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # no warnings of torch about its own deprecated parts
    # As usual for a command: Ctrl-C ends it at once, and so does a closed pipe, such as that to `head`.
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
    except _database_error() as error:
        complain(f"DVC cannot open its database: {error}; free some space if the disk is full")
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        complain(
            f"the package {package} is not installed: `pip install '.[pipeline]'` in a clone of ptqflow installs it"
        )
    return 1


def _database_error() -> type[Exception]:
    """Import the error only when there is one: most commands open no database."""
    from sqlite3 import DatabaseError

    return DatabaseError


def complain(message: str) -> None:
    """Print one line on stderr."""
    print("ptqflow:", printable(" ".join(message.split())), file=sys.stderr, flush=True)


def help_texts() -> dict[str, str]:
    """Return what each command prints with --help, by its name, and by the empty one what `ptqflow --help` prints."""
    parser = _parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {"": parser.format_help()} | {name: command.format_help() for name, command in commands.choices.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ptqflow",
        description="Use and compare INT8 models that the pipeline of ptqflow exported.",
        epilog="Run `ptqflow COMMAND --help` for details. Exit status: 0, 1 after an error, 2 for wrong usage.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_quantize(commands)
    _add_predict(commands)
    _add_inspect(commands)
    _add_verify(commands)
    _add_summary(commands)
    _add_compare(commands)
    _add_report(commands)
    _add_sweep(commands)
    _add_repair(commands)
    _add_init(commands)
    _add_upgrade(commands)
    _add_stage(commands)
    _add_completion(commands)
    return parser


def _add_command(
    commands: "Commands", command: Callable[[argparse.Namespace], int], summary: str, details: str
) -> argparse.ArgumentParser:
    """Add a command with the name of its function."""
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


def _add_quantize(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        _quantize,
        "quantize a classifier on photos without labels, and check what comes out",
        """\
examples:
  ptqflow quantize --model timm:mobilenetv3_small_100 --weights w.safetensors photos/ -o models/export
  ptqflow quantize --model resnet18 --weights IMAGENET1K_V1 -S model.preprocessing=torchvision photos.zip -o export
  ptqflow quantize --model nets:build --weights w.pt -S data.image_size=64 photos/ -o export --report report.html

Half of the photos are compared with FP32, a tenth of the others serve the report, the rest calibrates, 320 at most. The
folder that is written has an ONNX and a TorchScript file, each checked in a fresh process; `ptqflow predict` runs it.
Settings are keys of params.yaml in the sections data, model, calib, convert and export, with values as of YAML.

In Python: ptqflow.quantize(model, images).""",
    )
    parser.add_argument("images", metavar="IMAGES", type=Path, help="a folder or an archive with photos")
    parser.add_argument("--model", required=True, help="of torchvision, timm:NAME, or module:function of your own")
    parser.add_argument("--weights", required=True, help="a .pt, .ckpt or .safetensors file, or published weights")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", type=Path, help="folder to write")
    parser.add_argument("--classes", metavar="FILE", help="text file with the name of a class a line")
    parser.add_argument("--report", metavar="FILE", type=Path, help="write a page about the model, too")
    parser.add_argument("-S", "--set", metavar="KEY=VALUE", dest="settings", action="append", default=[], type=_setting)


def _quantize(options: argparse.Namespace) -> int:
    import warnings

    import ptqflow
    from ptqflow.core.errors import PtqflowWarning
    from ptqflow.core.progress import print_beside_bars

    settings = dict(options.settings) | ({"model.classes": options.classes} if options.classes else {})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PtqflowWarning)
        result = ptqflow.quantize(
            options.model, options.images, weights=options.weights, settings=settings, report=print_beside_bars
        )
    for warning in caught:
        if issubclass(warning.category, PtqflowWarning):
            complain(str(warning.message))
    result.save(options.output)
    if options.report:
        result.report(options.report)
    print(result.verdict)
    return 0


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

An image may have any format, mode and size that Pillow reads, or be HEIC if pillow-heif is installed. In folders and
their subfolders, every file with the suffix of an image format is classified; hidden files and those of operating
systems and NAS are skipped, and others with a note on stderr. For a file that cannot be read, one line is printed on
stderr; the others are classified, and the exit status is 1.

A TorchScript file is a program: run it with --runtime torchscript only if you trust its author.

--json prints one object a line: {"image": ..., "top": [{"class": ..., "probability": ...}, ...]}""",
    )
    _add_model(parser)
    parser.add_argument("images", metavar="IMAGE", type=Path, nargs="+", help="an image, or a folder with images")
    parser.add_argument(
        "-k", type=_positive, default=5, help="how many classes to print, the most probable first (default: 5)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line")
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        help=f"what runs the model (default: the first of {', '.join(BY_DEFAULT)} that is installed and can run it)",
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
        print(json.dumps(prediction.as_json()) if options.json else printable(prediction.as_text()), flush=True)
    return 1 if failures else 0


def _add_inspect(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        _inspect,
        "describe a model and check the hashes of its files",
        """\
examples:
  ptqflow inspect models/export
  ptqflow inspect models/export --json

Prints classes, input, figures on the test images, files, and each layer with the precision, scale and zero point of its
output. For a file that is missing or changed, one line is printed on stderr, and the exit status is 1.

--json prints the manifest.""",
    )
    _add_model(parser)
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")


def _inspect(options: argparse.Namespace) -> int:
    from ptqflow.inference.inspection import describe, find_changed_files
    from ptqflow.runtime.manifest import read_manifest

    manifest = read_manifest(options.model)
    wrong = find_changed_files(options.model, manifest)
    if options.json:
        print(json.dumps(manifest.model_dump(mode="json"), indent=2))
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
        "check that a model computes on this machine what torch computed at export",
        """\
examples:
  ptqflow verify models/export
  ptqflow verify models/export --data data/dataset

Checks the hashes of all files, then runs generated images through every runtime that is installed, and compares the
logits with those that torch computed at export. A runtime passes if its logits are as near to FP32's as those of
torch's INT8 network, or up to 3 dB further; SQNR is the power of the logits over that of the difference.

With --data, the test images are used, and the predicted classes are compared with those of torch at export, by the
gate of the stage `export`: the net loss of images that are predicted as FP32 does, and of images that are predicted
correctly, is within `export.margin`, or within chance.

Each runtime has a process of its own, which is ended after --timeout seconds.

TorchScript is one of the runtimes: its file is a program, so verify only a model whose author you trust.

For a runtime that fails, one line is printed on stderr, and the exit status is 1.""",
    )
    _add_model(parser)
    parser.add_argument("--data", metavar="DATASET", type=Path, help="written by `fetch`, such as data/dataset")
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_positive,
        default=600,
        help="after which a runtime is ended and counts as failed (default: 600)",
    )


def _verify(options: argparse.Namespace) -> int:
    from ptqflow.inference.verification import verify
    from ptqflow.runtime.manifest import read_manifest

    failed = False
    for finding in verify(options.model, read_manifest(options.model), options.data, options.timeout):
        if finding.passed is False:
            failed = True
            complain(str(finding))
        else:
            print(printable(str(finding)), flush=True)
    return 1 if failed else 0


def _add_summary(commands: "Commands") -> None:
    _add_command(
        commands,
        _summary,
        "print the verdict of the last run, the cause of a loss, and what INT8 gains",
        """\
example:
  dvc repro export && ptqflow summary

Run it in the repository. It does not wait for `sensitivity`, which takes longest: until that has run, no layer is
named. Files and layers that are of an earlier network are left out.""",
    )


def _summary(options: argparse.Namespace) -> int:
    from ptqflow.summary import summarize

    print(summarize())
    return 0


def _add_compare(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        _compare,
        "compare the INT8 models of two git revisions, image by image",
        """\
examples:
  ptqflow compare HEAD~1 HEAD
  ptqflow compare main my-branch --json
  ptqflow compare main HEAD --md --max-drop 0.5 --significant

Run it in the repository. What the models predicted for the test images comes from DVC's cache or remote. Prints the
paired test, and the classes and the images about which the models differ.

--md prints a comment for a pull request, with the figures of metrics/ and the three layers that changed most.
--json prints all of it, with every layer and image that changed.

With --max-drop or --significant, the exit status is 1 if the second model is worse by that.""",
    )
    parser.add_argument("revisions", metavar="REVISION", nargs=2, help="a commit, branch, tag or experiment")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print JSON")
    form.add_argument("--md", action="store_true", help="print Markdown of at most 65,536 characters")
    parser.add_argument("--max-drop", metavar="POINTS", type=_points, help="fail if top-1 drops by more points")
    parser.add_argument("--significant", action="store_true", help="fail if top-1 drops with statistical significance")


def _compare(options: argparse.Namespace) -> int:
    from ptqflow.compare import compare_revisions

    comparison = compare_revisions(*options.revisions)
    if options.json:
        print(json.dumps(comparison.as_json(), indent=2))
    else:
        print(comparison.as_markdown().rstrip() if options.md else comparison.as_text())
    return 1 if comparison.exceeds(options.max_drop, options.significant) else 0


def _add_report(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        _report,
        "write the report with commit, speed, and what changed since the last one",
        """\
examples:
  ptqflow report --open
  ptqflow report -o build/report.html

Run it at the root of a repository in which `dvc repro` has run. The page is that of the stage `report`, with what no
output of the pipeline may depend on: commit, branch, since when the data are unchanged, the timings of this model, and
the params, inputs and figures that differ from the newest commit with another report.""",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, default=Path("report.html"), help="(default: report.html)"
    )
    parser.add_argument("--open", action="store_true", help="open it in the browser")


def _report(options: argparse.Namespace) -> int:
    from ptqflow.current_report import write_current_report

    write_current_report(options.output)
    print(printable(str(options.output)))
    if options.open:
        import webbrowser

        webbrowser.open(options.output.resolve().as_uri())
    return 0


def _add_sweep(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        _sweep,
        "run experiments with every combination of params, on many hosts",
        """\
examples:
  ptqflow sweep -S calib.batches=1,5,20 -S convert.activation.method=mse,minmax
  ptqflow sweep -S train.lr=0.01,0.02 --cpus 4 --address auto
  ptqflow sweep -S calib.batches=1,5,20 evaluate

Run it at the root of the repository, without uncommitted changes. Each combination is a DVC experiment, run by Ray in a
clone of the commit, pushed to the git remote and the default DVC remote, and fetched as it finishes: `dvc exp show`
lists it. What several combinations share is run once. Experiments that exist are not run again, so the same command
continues after Ctrl-C or a failure.

Without --address, this host's cores are used. If an experiment is missing in the end, the exit status is 1.""",
    )
    parser.add_argument("targets", metavar="TARGET", nargs="*", help="stages to reproduce (default: all of dvc.yaml)")
    parser.add_argument(
        "-S",
        "--set-param",
        metavar="KEY=VALUE,…",
        dest="expressions",
        action="append",
        required=True,
        help="a key of params.yaml and its values, as of `dvc exp run --queue`",
    )
    parser.add_argument("--address", help="of a cluster of Ray that this host is in, such as auto or 10.0.0.1:6379")
    parser.add_argument("--cpus", type=_positive, default=1, help="cores of each task (default: 1)")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs of each task, or a share of one (default: 0)")
    parser.add_argument(
        "--git-remote", metavar="NAME", default="origin", help="what experiments are pushed to (default: origin)"
    )


def _sweep(options: argparse.Namespace) -> int:
    from ptqflow.sweep.cluster import Resources
    from ptqflow.sweep.run import Request, run_sweep

    resources = Resources(options.cpus, options.gpus)
    request = Request(options.expressions, options.targets, options.address, options.git_remote, resources)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # tasks on other hosts must be ended
        return 0 if run_sweep(request, lambda line: print(line, flush=True), complain) else 1
    except KeyboardInterrupt:
        complain("interrupted: running tasks have ended; finished experiments stay, and the same command runs the rest")
        return 128 + signal.SIGINT


def _add_repair(commands: "Commands") -> None:
    _add_command(
        commands,
        _repair,
        "remove damaged files of a repository, which `dvc repro` then makes again",
        """\
example:
  ptqflow repair && dvc repro

Run it in the root of the repository. Removes objects of DVC's cache whose content is not that of their name, outputs
that are not what their stage wrote, by dvc.lock, and partial outputs that killed runs left; prints each. DVC itself
compares neither, so that a plain `dvc repro` restores a damaged file again and again.""",
    )


def _repair(_: argparse.Namespace) -> int:
    from ptqflow.repair import repair

    removed = list(map(print, repair()))
    print(f"{len(removed)} removed; `dvc repro` makes them again" if removed else "nothing is damaged")
    return 0


def _add_init(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        _init,
        "write the pipeline into a git repository",
        """\
examples:
  ptqflow init
  ptqflow init models/birds

Writes dvc.yaml, params.yaml, ptqflow.lock.json, templates of plots and a workflow of GitHub with its script. The folder
becomes a DVC project of its own, unless it is one, so several models stand side by side. Overwrites nothing.""",
    )
    _add_folder(parser)


def _init(options: argparse.Namespace) -> int:
    from ptqflow.project.setup import init

    for line in init(options.folder):
        print(printable(line))
    return 0


def _add_upgrade(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        _upgrade,
        "bring a pipeline that `init` wrote to the installed version",
        """\
example:
  pip install --upgrade ptqflow && ptqflow upgrade && dvc repro

Writes the hashes of the installed code to ptqflow.lock.json, so that `dvc repro` reruns the stages whose code changed,
and replaces dvc.yaml unless it was edited.""",
    )
    _add_folder(parser)


def _upgrade(options: argparse.Namespace) -> int:
    from ptqflow.project.setup import upgrade

    for line in upgrade(options.folder):
        print(printable(line))
    return 0


def _add_folder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, nargs="?", default=Path(), help="of the pipeline (default: this one)"
    )


def _add_stage(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        _stage,
        "run one stage of a pipeline that `init` wrote, as its dvc.yaml does",
        """\
example:
  ptqflow stage predict int8

`dvc repro` runs it; by itself it does not bring up what the stage reads. It ends if ptqflow.lock.json is of other code
than that installed.""",
    )
    parser.add_argument("stage", metavar="STAGE", help="its name in dvc.yaml")
    parser.add_argument("arguments", metavar="ITEM", nargs="*", help="the network, for predict")


def _stage(options: argparse.Namespace) -> int:
    import runpy

    from ptqflow.project.code_file import stage_script

    script = str(stage_script(options.stage))
    sys.argv = [script, *options.arguments]  # which a stage runs again for its ranks
    runpy.run_path(script, run_name="__main__")
    return 0


def _add_completion(commands: "Commands") -> None:
    parser = _add_command(
        commands,
        _completion,
        "print a script with which a shell completes commands, options and paths",
        """\
examples:
  ptqflow completion bash > ~/.local/share/bash-completion/completions/ptqflow
  ptqflow completion zsh > ~/.zfunc/_ptqflow                         # with fpath+=~/.zfunc before compinit in ~/.zshrc
  ptqflow completion fish > ~/.config/fish/completions/ptqflow.fish

It needs the package shtab, which comes with DVC. The script starts no Python. Write it again after an upgrade.""",
    )
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="that will read the script")


def _completion(options: argparse.Namespace) -> int:
    try:
        import shtab
    except ModuleNotFoundError:
        raise PtqflowError("completion needs shtab, which is not installed: `pip install shtab`") from None
    parser = _parser()
    _complete_paths(parser, shtab.FILE)
    print(shtab.complete(parser, options.shell))
    return 0


def _complete_paths(parser: argparse.ArgumentParser, how: object) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_paths(command, how)
        elif action.type is Path or action.dest in ("weights", "classes"):
            action.complete = how  # type: ignore[attr-defined]


class _Version(argparse.Action):
    """Looks the version up only when it is to be printed."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"ptqflow {version('ptqflow')}")
        parser.exit()


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _setting(text: str) -> tuple[str, object]:
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, such as data.image_size=224")
    from ptqflow.core.params import parse_value

    return key, parse_value(value)


def _points(text: str) -> float:
    try:
        points = float(text)
    except ValueError:
        points = math.nan
    if not 0 <= points <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of points from 0 to 100")
    return points


def _write_any_name(*streams: TextIO) -> None:
    """Escape what a stream cannot encode: file names are bytes, and need not be UTF-8."""
    for stream in streams:
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
