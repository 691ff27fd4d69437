"""Checkpoints and datasets on the Hugging Face hub: ``hf://user/name`` in place of a folder.

Nothing of the hub's library is imported before something comes from there or goes there.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from shortcut_policy.errors import UNUSABLE_FILE, InputError, first_line

#: With one slash or two: a path object keeps one.
ADDRESS = re.compile(r"hf:/{1,2}(?P<repo>[^/@\s]+/[^/@\s]+?)(?:@(?P<revision>\S+))?/?")
CARD = "README.md"


class Repository(NamedTuple):
    """A model or a dataset on the hub.

    Attributes:
        name: ``user/name``.
        revision: Branch, tag or commit; None for the newest of the main branch.
    """

    name: str
    revision: str | None


def is_remote(path: str | Path) -> bool:
    """Whether a path means the hub."""
    return str(path).startswith("hf:/")


def parse(address: str | Path) -> Repository:
    """``hf://user/name[@revision]`` in its parts.

    Raises:
        InputError: It has another form.
    """
    match = ADDRESS.fullmatch(str(address))
    if match is None:
        raise InputError(f"{address} must be hf://user/name, or hf://user/name@revision")
    return Repository(match["repo"], match["revision"])


def download(address: str | Path, files: Sequence[str]) -> Path:
    """Fetch files of a model, or take them from the hub's cache on this machine.

    Args:
        address: ``hf://user/name[@revision]``; without a network the cache answers, if it holds them.
        files: Names of files.

    Returns:
        The folder of the cache that holds them.

    Raises:
        InputError: There is no such model or revision, no access to it, no network, or no checkpoint in it.
    """
    repository = parse(address)
    from huggingface_hub import snapshot_download

    with _one_sentence(f"{address} cannot be fetched"):
        folder = Path(
            snapshot_download(repository.name, revision=repository.revision, allow_patterns=list(files))
        )
    _check_links(address, folder, [folder / name for name in files])
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{address} holds no checkpoint of this library: {', '.join(missing)} is not there; give another "
            "name or revision"
        )
    return folder


def download_dataset(address: str | Path) -> Path:
    """Fetch all files of a dataset, or take them from the hub's cache on this machine.

    Args:
        address: ``hf://user/name[@revision]``; without a network the cache answers, if it holds them.

    Returns:
        The folder of the cache that holds them.

    Raises:
        InputError: There is no such dataset or revision, no access to it, or no network.
    """
    repository = parse(address)
    from huggingface_hub import snapshot_download

    with _one_sentence(f"{address} cannot be fetched", "dataset"):
        folder = Path(snapshot_download(repository.name, revision=repository.revision, repo_type="dataset"))
    _check_links(address, folder, folder.rglob("*"))
    return folder


def _check_links(address: str | Path, folder: Path, links: Iterable[Path]) -> None:
    """Raise `InputError` if the cache, whose files are links, has lost what one of them leads to.

    Without a network the hub's library takes such a copy for a whole one.
    """
    for link in sorted(links):
        if link.is_symlink() and not link.exists():
            raise InputError(
                f"{address} is damaged in the cache of the hub, where {link} leads to nothing: remove "
                f"{folder.parent.parent}, and give the command again to have it downloaded again"
            )


def upload(
    folder: Path,
    repo: str,
    private: bool | None,
    revision: str | None,
    message: str,
    keep_card: bool,
    token: str | None,
) -> str:
    """Put the files of a folder into a model on the hub, which is made if there is none.

    Args:
        folder: Holds the files and nothing else.
        repo: ``user/name``.
        private: Who may see a model that is made; None for what the account does.
        revision: Branch, made if there is none; None for the main one.
        message: Of the commit.
        keep_card: Leave a model card alone that is there already.
        token: Of the hub; None for the one of ``hf auth login``.

    Returns:
        Address of the model, ``hf://user/name[@revision]``.

    Raises:
        InputError: There is no network, or no right to write there.
    """
    address = f"hf://{repo}" + (f"@{revision}" if revision else "")
    name = parse(address).name
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with _one_sentence(f"{address} cannot be written"):
        api.create_repo(name, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)
        kept = keep_card and api.file_exists(name, CARD, revision=revision)
        api.upload_folder(
            repo_id=name,
            folder_path=folder,
            revision=revision,
            commit_message=message,
            ignore_patterns=[CARD] if kept else None,
        )
    return address


@contextmanager
def _one_sentence(what: str, kind: str = "model") -> Iterator[None]:
    """Say in one sentence what the hub's library raised."""
    from huggingface_hub import errors

    # Without a connection it raises an error of its HTTP library, which changes with its versions: that from
    # which its own error is derived.
    bases = (base for base in errors.HfHubHTTPError.__bases__ if issubclass(base, Exception))
    # What moves large files has only RuntimeError.
    raised: tuple[type[Exception], ...] = (OSError, RuntimeError, *bases)
    try:
        yield
    except errors.RevisionNotFoundError as error:
        raise InputError(f"{what}: the {kind} has no such revision; correct it") from error
    except errors.GatedRepoError as error:
        raise InputError(f"{what}: its owner grants access on request; ask there and log in") from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"{what}: there is no such {kind}, or you may not see it; correct the name, or log in with "
            "`hf auth login`"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise InputError(
            f"{what}: the hub cannot be reached, and this machine has no copy of it; connect to the network, "
            "or give a folder"
        ) from error
    except errors.HFValidationError as error:
        raise InputError(f"{what}: {first_line(error)}") from error
    except raised as error:
        if isinstance(error, OSError) and (
            error.errno in UNUSABLE_FILE or isinstance(error, PermissionError)
        ):
            raise InputError(
                f"{what} ({first_line(error)}): make room for the cache of the hub, or have HF_HOME "
                "name another place"
            ) from error
        raise InputError(
            f"{what} ({first_line(error)}); try again, or log in with `hf auth login`"
        ) from error
