"""`deploy ME/NAME`: this folder as a Hugging Face Space: create or update it, wait until it runs, print its address.

What is sent is listed first; `--dry-run` ends there and contacts nobody.
"""

from __future__ import annotations

import argparse
import re
import subprocess
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
THE_HUBS_OWN = {".gitattributes"}
LARGEST = 10 * 2**20  # bytes a file; over it a plain push is refused, so a copy of the Space could not be pushed again
HARDWARE = "zero-a10g"  # a new Space's, as README.md's front matter suggests
START_LIMIT_S = 3600  # as startup_duration_timeout in README.md
LOOK_EVERY_S = 3
SETTLE_S = 30  # after a commit the stage may still be that of the build before
UNDER_WAY = {"BUILDING", "RUNNING_BUILDING", "APP_STARTING", "RUNNING_APP_STARTING"}
NO_TOKEN = ("The Hub does not know you: {why} Make a token with write access at https://huggingface.co/settings/tokens "
            "and give it to `hf auth login`, or set HF_TOKEN.")
REMEDIES = {
    401: "Sign in again with `hf auth login`.",
    402: "A Gradio Space needs a paid plan, but for two on ZeroGPU (--hardware zero-a10g) that an account older than "
         "30 days may have.",
    403: "The token must be allowed to write there; is ME in ME/NAME your name?",
}


def add_parser(commands: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser("deploy", help="put this folder on the Hub as a Space")
    parser.add_argument("space", metavar="ME/NAME")
    parser.add_argument("--hardware", help=f"a Space's flavour: cpu-basic, l4x1, …; default: {HARDWARE} for a new "
                                           "Space, as it is for one that exists")
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
    print(f"{total:>12,}  bytes in {len(names)} files, to {args.space} on "
          f"{args.hardware or f'{HARDWARE}, or what it has'}")
    if args.dry_run:
        print("Nothing was sent: this was a dry run.")
        return 0
    from huggingface_hub import HfApi, SpaceHardware  # only here: the other commands need no hub

    if args.hardware is not None and args.hardware not in list(SpaceHardware):
        raise ValueError(f"There is no hardware {args.hardware!r}; choose one of {', '.join(SpaceHardware)}.")
    return deploy(HfApi(), args.space, names, args.hardware, args.private)


def files(root: Path) -> list[str]:
    """What a Space needs of the folder, as paths from it: what is under version control, or all without git.

    Raises ValueError for a file that the Hub would refuse.
    """
    listed = subprocess.run(["git", "ls-files", "-z", *PARTS], cwd=root, capture_output=True, text=True)
    if listed.returncode == 0 and listed.stdout:
        names = [name for name in listed.stdout.split("\0") if name and (root / name).exists()]
    else:
        found = [path for part in PARTS for path in (root / part, *(root / part).rglob("*")) if path.is_file()]
        names = [str(path.relative_to(root)) for path in found if "__pycache__" not in path.parts]
    for name in names:
        size = (root / name).stat().st_size
        if size > LARGEST:
            raise ValueError(f"{name} has {size:,} bytes; a Space takes at most {LARGEST:,} in one file.")
    return sorted(names)


def deploy(api: HfApi, space: str, names: list[str], hardware: str | None, private: bool,
           sleep: Callable[[float], None] = time.sleep) -> int:
    """0 once the Space runs, else 1 with the reason printed. Raises ValueError for what the Hub refuses."""
    from huggingface_hub import SpaceHardware

    say(f"Signed in as {signed_in(api)}.")
    try:
        is_new = not api.repo_exists(space, repo_type="space")
        if is_new:
            api.create_repo(space, repo_type="space", space_sdk="gradio", private=private,
                            space_hardware=SpaceHardware(hardware or HARDWARE))
        send(api, space, names)
        if hardware is not None and not is_new:
            api.request_space_hardware(space, SpaceHardware(hardware))
    except ValueError:
        raise
    except Exception as error:
        raise _in_words(error, space) from error
    return wait(api, space, sleep)


def send(api: HfApi, space: str, names: list[str]) -> None:
    """One commit with these files, without those of an older version. Raises ValueError if another app lives there."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    there = set(api.list_repo_files(space, repo_type="space")) - THE_HUBS_OWN
    if "app.py" in there and not any(name.startswith("olmoe_space/") for name in there):
        raise ValueError(f"{space} holds another app. Choose another name, or delete it first.")
    say(f"Sending {len(names)} files …")
    old = [CommitOperationDelete(name) for name in sorted(there - set(names))]
    new = [CommitOperationAdd(name, ROOT / name) for name in names]
    api.create_commit(space, [*old, *new], commit_message="Deploy", repo_type="space")


def signed_in(api: HfApi) -> str:
    """The account's name. Raises ValueError if there is no token, or one that is refused."""
    from huggingface_hub.errors import LocalTokenNotFoundError

    try:
        return str(api.whoami()["name"])
    except LocalTokenNotFoundError:
        raise ValueError(NO_TOKEN.format(why="there is no token on this machine.")) from None
    except Exception as error:
        if _status(error) == 401:
            raise ValueError(NO_TOKEN.format(why="it refuses the token.")) from None
        raise _in_words(error, "your token") from error


def wait(api: HfApi, space: str, sleep: Callable[[float], None]) -> int:
    """Tells each stage once, until the Space runs or cannot. A look that fails is tried again."""
    shown, has_begun, address = "", False, f"https://huggingface.co/spaces/{space}"
    for waited in range(0, START_LIMIT_S, LOOK_EVERY_S):
        try:
            runtime = api.get_space_runtime(space)
        except Exception as error:
            stage, said = "", f"no answer ({type(error).__name__}), trying again"
        else:
            stage = str(getattr(runtime.stage, "value", runtime.stage))
            said = stage.replace("_", " ").lower()
        if said != shown:
            say(said)
            shown = said
        has_begun |= stage in UNDER_WAY
        if stage and stage not in UNDER_WAY and (has_begun or waited >= SETTLE_S):
            if stage == "RUNNING":
                print(address)
                return 0
            say(f"The Space does not run: {runtime.raw.get('errorMessage') or 'its logs say why'}. Logs: "
                f"{address}?logs=build and {address}?logs=container")
            return 1
        sleep(LOOK_EVERY_S)
    say(f"It has not started within {START_LIMIT_S // 60} minutes; it goes on without being watched: {address}")
    return 1


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _status(error: Exception) -> int:
    """The HTTP status that the Hub answered; 0 for an error without an answer."""
    return getattr(getattr(error, "response", None), "status_code", 0)


def _in_words(error: Exception, space: str) -> Exception:
    """The Hub's refusals as sentences with a remedy; anything else as it is."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        said = (error.server_message or str(error)).rstrip(".")
        return ValueError(f"The Hub refused {space}: {said}. {REMEDIES.get(_status(error), '')}".strip())
    if isinstance(error, OSError) or type(error).__module__.startswith("httpx"):  # what the client connects with
        return ValueError(f"The Hub cannot be reached ({type(error).__name__}). Check the connection and try again.")
    return error
