"""Whether the hub can hand out a model now: asked once, with a time limit, before anything is loaded from it.

The libraries that load repeat each question five times with pauses between, so a hub that is away would hold up the
start for minutes, and one that hangs for longer.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import httpx  # whichever it asks with: its errors are that one's

NOT_THERE = "{} has no such model, or only for an account that may see it (HF_TOKEN)."
HUB_TIMEOUT_S = 10.0  # for the hub to connect, and again to answer


def trouble_with(name: str) -> str:
    """Why the hub cannot hand out `name` now, as a sentence; "" if it can, or if it is not to be asked."""
    if Path(name).is_dir():
        return ""
    hub = HfApi()
    try:
        hub.model_info(name, timeout=HUB_TIMEOUT_S)
    except OfflineModeIsEnabled:
        return ""  # only what is in its cache counts, and the loading says what is missing there
    except GatedRepoError:
        return f"{hub.endpoint} gives it only to accounts that accepted its terms: accept them and set HF_TOKEN."
    except RepositoryNotFoundError:
        return NOT_THERE.format(hub.endpoint)
    except HfHubHTTPError as error:
        if error.response.status_code == 404:  # of a hub that does not name its errors: a mirror
            return NOT_THERE.format(hub.endpoint)
        return f"{hub.endpoint} answered with the status {error.response.status_code}."
    except httpx.TimeoutException:
        return f"{hub.endpoint} did not answer within {HUB_TIMEOUT_S:.0f} s."
    except httpx.TransportError as error:
        return f"{hub.endpoint} cannot be reached ({error})."
    return ""
