"""Entry point of the command `spatialsweep` and, for Ray jobs without it, of `python -m orchestrator`."""

import atexit
import contextlib
import os
import sys

_INTERRUPTED = 130  # of exit_codes.py, which is not imported yet

_codes: list[int] = []


def run() -> None:
    """Run the command line, and end the process without tearing down torch, Ray and MLflow, which takes seconds."""
    atexit.register(_end)  # what is registered first is called last, after Ray has shut down and files are removed
    try:
        from orchestrator.cli.main import main

        main()
    except KeyboardInterrupt:  # while it is imported
        _codes.append(_INTERRUPTED)
        sys.exit(_INTERRUPTED)
    except SystemExit as end:
        _codes.append(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise
    _codes.append(0)


def _end() -> None:
    if not _codes:
        return  # an error that the command line did not expect: the interpreter ends as usual
    for stream in filter(None, (sys.stdout, sys.stderr)):  # one that was closed before the start is None
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(_codes[-1])


if __name__ == "__main__":
    run()
