"""Models of the Hugging Face hub: `NAME/MODEL@COMMIT`, read from the local cache only.

Training downloads nothing: a base of many gigabytes is fetched by the hub's own tool, once, and a message says how.
"""

from __future__ import annotations

import re
from pathlib import Path

from narrowly.records.errors import SpecError

_NAME = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[^@]*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")

PROBE_SECONDS = 10.0
"""How long the hub is asked why a model is not in the cache."""


def is_hub_name(text: str) -> bool:
    """Return whether a text reads as a name of the hub: two parts, perhaps with `@` and a revision."""
    return _NAME.fullmatch(text) is not None


def hub_folder(reference: str) -> tuple[str, Path]:
    """Return name and cached snapshot of a model of the hub.

    Args:
        reference: `NAME/MODEL@COMMIT`, the commit with all its 40 digits: a branch would mean another model tomorrow.

    Raises:
        SpecError: no pinned commit; not in the cache, with the reason (gated, unknown, no network) and the command.
    """
    match = _NAME.fullmatch(reference)
    if match is None:
        raise SpecError(f"base {reference!r} is no name of the hub; accepted: NAME/MODEL@COMMIT")
    name, revision = match["name"], match["revision"]
    if revision is None or not _COMMIT.fullmatch(revision):
        found = "no revision" if revision is None else f"revision {revision!r}"
        raise SpecError(
            f"base {name!r} is no folder with config.json, and as a model of the hub it has {found}, accepted: its "
            f"commit, {name}@ and 40 hex digits{_known_clause(name, revision or 'main')}"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise SpecError(
            f"base {name} at commit {revision} is not in the local cache: {_why(name, revision)}; on a machine with "
            f"network: hf download {name} --revision {revision}"
        ) from error
    return name, folder


def cached_models() -> list[str]:
    """Return the names of the models in the local cache of the hub, sorted."""
    return sorted(path.name.removeprefix("models--").replace("--", "/") for path in _cache().glob("models--*--*"))


def _cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def known_commit(name: str, branch: str) -> str | None:
    """Return the commit of a branch as it is in the local cache of the hub, or None."""
    reference = _cache() / f"models--{name.replace('/', '--')}" / "refs" / branch
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else ""
    return commit if _COMMIT.fullmatch(commit) else None


def _known_clause(name: str, branch: str) -> str:
    """Return a clause that names the commit of a branch as it is in the cache, or nothing."""
    commit = known_commit(name, branch)
    return f" ({branch} in the local cache is {commit})" if commit else ""


def _why(name: str, revision: str) -> str:
    """Ask the hub, once and shortly, why a model is not here."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    gated = f"it is gated: accept its terms at https://huggingface.co/{name} and log in with `hf auth login`"
    try:
        info = HfApi().model_info(name, revision=revision, timeout=PROBE_SECONDS)
    except OfflineModeIsEnabled:
        return "the hub is switched off (HF_HUB_OFFLINE)"
    except GatedRepoError:
        return gated
    except RevisionNotFoundError:
        return "the hub does not know this commit"
    except RepositoryNotFoundError:
        return "the hub knows no such model (or it is private and you are not logged in)"
    except HfHubHTTPError as error:
        return f"the hub answers: {' '.join(str(error).split())[:200]}"
    except Exception as error:
        return f"the hub cannot be reached ({type(error).__name__})"
    return gated if info.gated else "it was never downloaded"
