"""`deploy ME/NAME`: this folder as a Hugging Face Space: create or update it, wait until it runs, print its address.

What is uploaded is listed first; `--dry-run` ends there and contacts nobody.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..settings import Settings

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("README.md", "LICENSE", "requirements.txt", "app.py", "olmoe_space", "assets")  # no tests, no tooling
CACHES = {"__pycache__", ".ipynb_checkpoints"}
LARGEST = 10 * 2**20  # bytes a file; the Hub refuses more in a plain repository
HARDWARE = "zero-a10g"
START_LIMIT_S = 3600  # as startup_duration_timeout in README.md
LOOK_EVERY_S = 3
UNDER_WAY = {"BUILDING", "RUNNING_BUILDING", "APP_STARTING", "RUNNING_APP_STARTING"}
NO_TOKEN = ("The Hub does not know you: {why} Make a token with write access at https://huggingface.co/settings/tokens "
            "and give it to `hf auth login`, or set HF_TOKEN.")


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser("deploy", help="put this folder on the Hub as a Space")
    parser.add_argument("space", metavar="ME/NAME")
    parser.add_argument("--hardware", default=HARDWARE, help="a Space's flavour: cpu-basic, l4x1, … (%(default)s)")
    parser.add_argument("--private", action="store_true", help="if the Space is new")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done; contact nobody")
    return parser


def run(args: argparse.Namespace, settings: Settings) -> int:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", args.space):
        raise ValueError(f"A Space is named as ME/NAME; got {args.space!r}.")
    names = files(ROOT)
    for name in names:
        print(f"{(ROOT / name).stat().st_size:>12,}  {name}")
    total = sum((ROOT / name).stat().st_size for name in names)
    print(f"{total:>12,}  bytes in {len(names)} files, to {args.space} on {args.hardware}")
    if args.dry_run:
        print("Nothing was sent: this was a dry run.")
        return 0
    from huggingface_hub import HfApi, SpaceHardware  # only here: the other commands need no hub

    if args.hardware not in list(SpaceHardware):
        raise ValueError(f"There is no hardware {args.hardware!r}; choose one of {', '.join(SpaceHardware)}.")
    return deploy(HfApi(), args.space, names, args.hardware, args.private)


def files(root: Path) -> list[str]:
    """What a Space needs of the folder, as paths from it. Raises ValueError for a file that the Hub would refuse."""
    found = [path for part in PARTS for path in (root / part, *(root / part).rglob("*"))]
    kept = [path for path in found if path.is_file() and not CACHES & set(path.parts)]
    for path in kept:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path.relative_to(root)} has {path.stat().st_size:,} bytes; a Space takes at most "
                             f"{LARGEST:,} in one file. Move it out of {path.parent.relative_to(root)}.")
    return sorted(str(path.relative_to(root)) for path in kept)


def deploy(api: HfApi, space: str, names: list[str], hardware: str, private: bool,
           sleep: Callable[[float], None] = time.sleep) -> int:
    """0 once the Space runs, else 1 with the reason printed. Raises ValueError for what the Hub refuses."""
    from huggingface_hub import SpaceHardware

    flavour = SpaceHardware(hardware)
    say(f"Signed in as {signed_in(api)}.")
    place: dict[str, Any] = {"repo_id": space, "repo_type": "space"}
    try:
        api.create_repo(**place, space_sdk="gradio", space_hardware=flavour, private=private, exist_ok=True)
        say(f"Sending {len(names)} files …")
        api.upload_folder(**place, folder_path=ROOT, allow_patterns=[_literally(name) for name in names],
                          delete_patterns=["olmoe_space/**", "assets/**"], commit_message="Deploy")
        runtime = api.get_space_runtime(space)
        if flavour not in (runtime.requested_hardware, runtime.hardware):
            api.request_space_hardware(space, flavour)
    except Exception as error:
        raise _in_words(error, space) from error
    return wait(api, space, sleep)


def signed_in(api: HfApi) -> str:
    """The account's name. Raises ValueError if there is no token, or one that is refused."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        return str(api.whoami()["name"])
    except LocalTokenNotFoundError:
        raise ValueError(NO_TOKEN.format(why="there is no token on this machine.")) from None
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code == 401:
            raise ValueError(NO_TOKEN.format(why="it refuses the token.")) from None
        raise _in_words(error, "your token") from error
    except Exception as error:
        raise _in_words(error, "your token") from error


def wait(api: HfApi, space: str, sleep: Callable[[float], None]) -> int:
    """Tells each stage once, until the Space runs or cannot."""
    shown, waited = "", 0.0
    while True:
        runtime = api.get_space_runtime(space)
        stage = str(getattr(runtime.stage, "value", runtime.stage))
        if stage != shown:
            say(stage.replace("_", " ").lower())
            shown = stage
        if stage not in UNDER_WAY:
            break
        if waited > START_LIMIT_S:
            say(f"It has not started within {START_LIMIT_S // 60} minutes; it goes on without being watched.")
            break
        sleep(LOOK_EVERY_S)
        waited += LOOK_EVERY_S
    address = f"https://huggingface.co/spaces/{space}"
    if stage == "RUNNING":
        print(address)
        return 0
    reason = runtime.raw.get("errorMessage") or "its logs say why"
    say(f"The Space does not run: {reason}. Logs: {address}?logs=build and {address}?logs=container")
    return 1


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _literally(name: str) -> str:
    """A pattern that only this name matches."""
    return re.sub(r"([*?\[])", r"[\1]", name)


def _in_words(error: Exception, space: str) -> Exception:
    """The Hub's refusals as sentences with a remedy; anything else as it is."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code if error.response is not None else 0
        remedy = {402: " The hardware must be paid for: choose --hardware cpu-basic, or see the account's billing.",
                  403: " The token must be allowed to write there; is ME in ME/NAME your name?"}.get(status, "")
        return ValueError(f"The Hub refused {space}: {error.server_message or error}.{remedy}".replace("..", "."))
    if isinstance(error, OSError) or type(error).__module__.startswith("httpx"):  # what the client connects with
        return ValueError(f"The Hub cannot be reached ({type(error).__name__}). Check the connection and try again.")
    return error
