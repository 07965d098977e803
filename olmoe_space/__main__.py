"""The shell: `python -m olmoe_space generate "…" --k 16 --seed 0 --json`; `--help` lists the other commands."""

from __future__ import annotations

import argparse
import os
import signal
import sys

from .model.loader import ModelUnavailable
from .shell import api, benchmark, capacity, choose, compare, dataflow, deploy, experts, generate, quality, race, serve
from .shell.loading import settings_of
from .shell.stopping import STOPPED, exit_code, terminable

COMMANDS = (generate, choose, compare, dataflow, experts, quality, race, benchmark, capacity, api, serve, deploy)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m olmoe_space", description=__doc__)
    parser.add_argument("--model", help="hub id or folder; default: OLMOE_MODEL, else by device")
    parser.add_argument("--dtype", help="float32, bfloat16 or float16; default: OLMOE_DTYPE, else by device")
    commands = parser.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        command.add_parser(commands).set_defaults(run=command.run)
    args = parser.parse_args(arguments)
    try:
        with terminable():
            code: int = args.run(args, settings_of(args))
            sys.stdout.flush()
            return code
    except (ValueError, ModelUnavailable) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever reads has enough, as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt as stop:
        print(STOPPED, file=sys.stderr)
        return exit_code(stop)


if __name__ == "__main__":
    sys.exit(main())
