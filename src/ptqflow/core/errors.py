"""Errors whose cause the user can fix, and how the ends of system calls and processes are described."""

import signal


class PtqflowError(Exception):
    """Bad input or a broken file, reported in one line: what was found, what is allowed, what to do."""


class ParamsError(PtqflowError):
    """A key of params.yaml is unknown, missing, of the wrong type or out of range."""


class DataError(PtqflowError):
    """The images cannot be read, or are not what the pipeline can work with."""


class BenchmarkError(PtqflowError):
    """A model could not be timed."""


class ModelError(PtqflowError):
    """The network cannot be built, or the weights do not belong to it."""


class ArtifactError(PtqflowError):
    """A file that an earlier stage wrote is missing, changed or of another version."""


class LaunchError(PtqflowError):
    """Several processes could not be started, or one of them has failed."""


class EngineError(PtqflowError):
    """The quantized engine is not available here, or is not the one that a model was converted for."""


class PtqflowWarning(UserWarning):
    """Something went wrong and the work continues: one line."""


def one_line(error: Exception) -> str:
    """Return the message of an error of another library without its line breaks; it may be empty."""
    return " ".join(str(error).split())


def describe_os_error(error: OSError) -> str:
    """Return what the operating system says, and of which file."""
    where = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or error}{where}"


def describe_exit(status: int) -> str:
    """Return how a process ended, from its exit status as `subprocess` returns it: negative for a signal."""
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:  # real-time signals have no names
        return f"was ended by signal {-status}"


def describe_failure(status: int, stderr: str) -> str:
    """Return in one line why a process failed: its last message on stderr, and how it ended if a signal ended it.

    A traceback is reduced to the lines after the indented ones.
    """
    lines = stderr.strip().splitlines()
    indented = [number for number, line in enumerate(lines) if line.startswith("  ")]
    message = " ".join(" ".join(lines[indented[-1] + 1 :] if indented else lines[-1:]).split())
    if message and status > 0:
        return message
    end = f"its process {describe_exit(status)}"
    return f"{end} ({message})" if message else end
