"""Files of the Hugging Face hub, by huggingface_hub: whole, in part, or going on from a part."""

import fcntl
import glob
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from vlmmerge.errors import CheckpointError, EngineError

_BLOCK = 2**20


def download(
    repo: str,
    commit: str,
    files: Mapping[str, int] | None,
    patterns: Sequence[str],
    silent: bool = True,
) -> None:
    """Bring the top-level files that match into the cache; without bars where they are small."""
    from huggingface_hub import snapshot_download

    if files is not None:
        names = [name for name in files if any(fnmatch(name, pattern) for pattern in patterns)]
        if not names:
            return
        patterns = exactly(names)
    snapshot_download(
        repo,
        revision=commit,
        allow_patterns=list(patterns),
        ignore_patterns=["*/*"],
        tqdm_class=_no_bar() if silent else None,
    )


def to_download(repo: str, commit: str, names: Iterable[str]) -> list[str]:
    """Those of the files that the cache has nowhere, the blobs of other repositories included."""
    from huggingface_hub import snapshot_download

    plan = snapshot_download(
        repo,
        revision=commit,
        allow_patterns=exactly(names),
        tqdm_class=_no_bar(),
        dry_run=True,
    )
    return [file.filename for file in plan if file.will_download]


def _no_bar() -> Any:
    from huggingface_hub.utils.tqdm import tqdm

    class Silent(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]

    return Silent


def exactly(names: Iterable[str]) -> list[str]:
    """Patterns of fnmatch that match these names and no others."""
    return [glob.escape(name) for name in names]


def read_start(repo: str, commit: str, name: str, length: int) -> bytes:
    """The first `length` bytes of a file on the hub, or fewer where it is shorter."""
    from huggingface_hub import constants, hf_hub_url, utils

    client: Any = utils  # its names are imported lazily: mypy does not see them
    url = hf_hub_url(repo, name, revision=commit)
    part = {"Range": f"bytes=0-{length - 1}", "Accept-Encoding": "identity"}
    with client.http_stream_backoff(
        "GET",
        url,
        max_retries=2,
        headers={**client.build_hf_headers(), **part},
        timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
    ) as answer:
        client.hf_raise_for_status(answer)
        found = bytearray()
        for chunk in answer.iter_bytes():  # not at once: a server may answer with all of the file
            found += chunk
            if len(found) >= length:
                break
    return bytes(found[:length])


def resume(repo: str, commit: str, name: str, blobs: Path) -> bool:
    """Download a weight file into the `blobs` of the cache, from where an earlier run was cut.

    huggingface_hub keeps no part of a file between two runs: the part is ours, until it is whole.
    Returns whether it is there now: plain HTTP gives no file over 50 GB.
    Raises `CheckpointError` where it is not what the hub says it should be.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, utils
    from huggingface_hub.file_download import http_get

    client: Any = utils
    url = hf_hub_url(repo, name, revision=commit)
    about = get_hf_file_metadata(url, headers=client.build_hf_headers())
    if about.etag is None or about.size is None or about.size > constants.MAX_HTTP_DOWNLOAD_SIZE:
        return False
    blobs.mkdir(parents=True, exist_ok=True)
    blob, part = blobs / about.etag, blobs / f"{about.etag}.vlmmerge.incomplete"
    if blob.exists():
        return True
    with part.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until closed: another process may want the same model
        if blob.exists():
            return True
        have = file.seek(0, os.SEEK_END)
        if have > about.size:
            have = file.truncate(0)
        http_get(
            url,
            file,
            resume_size=have,
            headers=client.build_hf_headers(),
            expected_size=about.size,
            displayed_filename=name,
        )
        file.flush()
        if len(about.etag) == 64 and _sha256(part) != about.etag:
            part.unlink()
            raise CheckpointError(
                f"{repo}: {name} came with another checksum than the hub's; run again"
            )
        os.replace(part, blob)
    return True


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def told(repo: str, revision: str | None) -> Iterator[None]:
    """Errors of the hub's client as one line that says what to do."""
    import httpx2
    from huggingface_hub.errors import HFValidationError, RevisionResolutionError

    try:
        yield
    except HFValidationError as error:
        raise CheckpointError(f"{repo}: no such model folder, and no id of the hub") from error
    except (OSError, RevisionResolutionError, httpx2.TransportError) as error:
        raise _explained(repo, revision, error) from error


def _explained(
    repo: str, revision: str | None, error: BaseException
) -> CheckpointError | EngineError:
    from huggingface_hub import errors

    page = f"https://huggingface.co/{repo}"
    while isinstance(error, errors.LocalEntryNotFoundError | errors.RevisionResolutionError):
        if error.__cause__ is None:
            break
        error = error.__cause__  # why the hub was not asked, or did not answer
    match error:
        case errors.OfflineModeIsEnabled():
            said = "not complete in the cache of the hub, and HF_HUB_OFFLINE is set; unset it"
        case errors.GatedRepoError():
            said = f"gated; ask for access at {page} and run `hf auth login`"
        case errors.RepositoryNotFoundError():
            said = (
                "no such folder, and the hub has no such model or it is private;"
                f" see {page} and run `hf auth login`"
            )
        case errors.RevisionNotFoundError():
            said = f"the hub has no revision {revision or 'main'!r} of it; see {page}/commits"
        case errors.HfHubHTTPError(response=response) if response.status_code in (401, 403):
            said = f"the hub refused the token; see {page} and run `hf auth login`"
        case errors.HfHubHTTPError(response=response):
            said = f"the hub answered {response.status_code}; try again later, or see {page}"
        case OSError(errno=int(), filename=str(path)):
            return EngineError(f"{path}: cannot be written ({error.strerror})")
        case OSError(errno=int(), strerror=str(reason)):
            return EngineError(f"{repo}: cannot be downloaded ({reason})")
        case _:
            reason = str(error).split("\n")[0] or type(error).__name__
            said = f"the hub cannot be reached, or the connection was lost ({reason}); run again"
    return CheckpointError(f"{repo}: {said}")
