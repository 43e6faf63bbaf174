"""The command line: parses, calls one library function, prints. The only room that prints and exits.

Nothing heavier than click is imported before a command needs it: `--help` is instant.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from detcam import __version__
from detcam.cli.evaluating import evaluate
from detcam.cli.exits import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_REFUSED
from detcam.cli.explaining import explain
from detcam.cli.figuring import figure
from detcam.cli.listing import doctor, inspect_file, layers, methods
from detcam.cli.looking import features, kernels, maps
from detcam.cli.reporting import report
from detcam.cli.words import end
from detcam.errors import DetcamError, UnsafeCheckpointError

__all__ = ["cli", "main"]


class _DetectFirst(click.Group):
    """Lists commands in the order in which people need them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group(
    cls=_DetectFirst, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="detcam")
@click.option("--debug", is_flag=True, help="Show tracebacks. May stand anywhere.")
def cli(debug: bool) -> None:
    r"""Show why an object detector fired: heatmaps per box, per class and per level.

    \b
    Example:
      detcam explain yolo.pt street.jpg --class person
    """


for _command in (
    explain,
    report,
    figure,
    evaluate,
    features,
    maps,
    kernels,
    layers,
    methods,
    inspect_file,
    doctor,
):
    cli.add_command(_command)
for _command in (cli, *cli.commands.values()):
    # click's mark for "do not wrap this" is a control character; a docstring holds it spelt out.
    _command.help = (_command.help or "").replace("\\b", "\b")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit: 0 done, 1 failed, 2 usage, 3 some failed, 4 refused, 130 interrupted."""
    # Libraries that would fetch or install something on their own, or talk on stdout, are told not to.
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    os.environ.setdefault("YOLO_VERBOSE", "false")
    os.environ.setdefault("YOLO_OFFLINE", "true")  # else it looks up two hosts as it is imported
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` and `docker stop` tidy up like Ctrl-C
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for stream in (sys.stdout, sys.stderr):  # a letter that a pipe cannot hold is no reason to fail
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        cli.main(
            args=[one for one in given if one != "--debug"],
            prog_name="detcam",
            standalone_mode=False,
            obj=given,
        )
    except click.exceptions.Abort:
        end("interrupted", EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        end("interrupted", EXIT_INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except DetcamError as error:
        if debug:
            raise
        end(f"error: {error}", EXIT_REFUSED if isinstance(error, UnsafeCheckpointError) else EXIT_FAILED)
    sys.exit(0)
