"""`serve`: the engine as replicas under Ray Serve, one a GPU or a group of cores, for front ends with OLMOE_ENGINE and
for any OpenAI client."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from typing import Any

from ..request import whole_number
from ..settings import Settings, tell_ray
from .stopping import terminable

NO_RAY = ("Ray is not installed. It is optional: .venv/bin/python -m pip install -r requirements-scale.txt "
          "-c requirements.txt")


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        "serve", help="replicas of the engine under Ray Serve, on one machine or many",
        description="OLMOE_API_KEYS names who may ask; without it only this machine may.")
    parser.add_argument("--replicas", default="1", metavar="N or MIN..MAX",
                        help="how many; with two numbers Ray scales between them by load; default: 1")
    parser.add_argument("--gpus-per-replica", type=float, help="default: 1 where the cluster has a GPU, else 0")
    parser.add_argument("--cpus-per-replica", type=float, default=1.0,
                        help="cores, and threads of a replica without a GPU; default: 1")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at, on every node; default: 127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000")
    parser.add_argument("--address", help="of a running Ray cluster, HOST:PORT or auto; default: a new one, here")
    parser.add_argument("--detach", action="store_true", help="with --address: end, and leave them running. Deployed "
                                                              "again, replicas are replaced one after the other")
    return parser


def run(args: argparse.Namespace, settings: Settings) -> int:
    replicas = replicas_of(args.replicas)
    if args.detach and args.address is None:
        raise ValueError("--detach leaves replicas in a cluster that goes on; name it with --address.")
    if find_spec("ray") is None:
        raise ValueError(NO_RAY)
    tell_ray()
    from ..scale.deployment import connect, deploy, end, fleet_for, until_lost

    connect(args.address)
    with terminable():  # again: Ray has put its own handler in the place of the shell's
        stays = False
        try:
            fleet = fleet_for(replicas, args.gpus_per_replica, args.cpus_per_replica, args.host, args.port)
            print(f"Starting {args.replicas} replica(s) …", file=sys.stderr, flush=True)
            deploy(settings, fleet)
            print(f"Ready. A front end:  OLMOE_ENGINE={fleet.address} python app.py\n"
                  f"OpenAI clients:  base_url={fleet.address.replace('ray', 'http', 1)}/v1", flush=True)
            stays = args.detach
            if not stays:
                print("Ctrl-C ends it.", flush=True)
                until_lost()
                raise ValueError("The Ray cluster no longer runs these replicas. Start it again, then this.")
        finally:
            if not stays:
                end()
    return 0


def replicas_of(text: str) -> tuple[int, int]:
    """"3" -> (3, 3), "1..4" -> (1, 4). Raises ValueError for what is no number of replicas."""
    least, dots, most = text.partition("..")
    numbers = [whole_number(part.strip(), "--replicas", 1) for part in (least, most if dots else least)]
    if numbers[0] > numbers[1]:
        raise ValueError(f"--replicas {text}: the first number must not be larger than the second.")
    return numbers[0], numbers[1]
