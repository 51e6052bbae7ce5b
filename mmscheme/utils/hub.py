"""Weights from the Hugging Face Hub, and to it."""
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, List, Mapping, Optional

__all__ = ['check_repo', 'download', 'upload']

_REPO = r'[\w.-]+/[\w.-]+'
_SOURCE = re.compile(rf'hf://({_REPO})(?:@([^/]+))?(?:/(.+))?')


def check_repo(repo: Optional[str]) -> None:
    """Refuse what is no name of a repository; None passes.

    Raises:
        ValueError: It is not ``OWNER/NAME``.
    """
    if repo is not None and not re.fullmatch(_REPO, repo):
        raise ValueError(f'--hub: expected OWNER/NAME, found {repo}')


def download(source: str) -> str:
    """Return the path of a file of the hub in its cache, where it is looked for first.

    Args:
        source: ``hf://OWNER/NAME[@REVISION][/FILE]``; without FILE the only ``*.safetensors`` or
            else the only ``*.pth`` of the repository.

    Raises:
        ImportError: huggingface_hub is not installed.
        ValueError: There is no such file, or it cannot be had.
    """
    found = _SOURCE.fullmatch(source)
    if not found:
        raise ValueError('expected hf://OWNER/NAME[@REVISION][/FILE]')
    repo, revision, name = found.groups()
    with _plain_errors() as hub:
        name = name or _only_weights(hub.HfApi().list_repo_files(repo, revision=revision))
        return str(hub.hf_hub_download(repo, name, revision=revision))


def _only_weights(names: List[str]) -> str:
    kinds = ([n for n in names if n.endswith(suffix)] for suffix in ('.safetensors', '.pth'))
    found = next(filter(None, kinds), [])
    if len(found) != 1:
        raise ValueError('expected one file with weights in the repository, found '
                         f'{", ".join(found) or "none"}')
    return found[0]


def upload(repo: str, files: Mapping[str, Path], private: bool = False) -> str:
    """Put files into a repository in one commit; the repository is made if there is none.

    Args:
        repo: ``OWNER/NAME``.
        files: Local files by their names there.
        private: Makes a new repository a private one.

    Returns:
        The address of the commit.

    Raises:
        ImportError, ValueError: As for :func:`download`.
    """
    with _plain_errors() as hub:
        api = hub.HfApi()
        api.create_repo(repo, private=private, exist_ok=True)
        return str(api.create_commit(
            repo, [hub.CommitOperationAdd(name, str(path)) for name, path in files.items()],
            commit_message=f'Add {next(iter(files))}').commit_url)


@contextmanager
def _plain_errors() -> Iterator[Any]:
    """Yield the library; its errors of several lines become one."""
    try:
        import huggingface_hub as hub
        from huggingface_hub import errors
    except ImportError:
        raise ImportError("hf:// and --hub need huggingface_hub: pip install 'mmscheme[hub]'"
                          ) from None
    try:
        yield hub
    except errors.LocalEntryNotFoundError as e:
        raise ValueError('the hub cannot be reached, and the file is not in its cache') from e
    except errors.RepositoryNotFoundError as e:
        raise ValueError('no such repository, or one that needs `hf auth login`') from e
    except (errors.EntryNotFoundError, errors.RevisionNotFoundError) as e:
        raise ValueError('no such file or revision in the repository') from e
    except ValueError:
        raise
    except Exception as e:  # of the library that talks to the hub, which is not always the same
        status = getattr(getattr(e, 'response', None), 'status_code', None)
        hint = '; `hf auth login` with a token that may write' if status in (401, 403) else ''
        text = getattr(e, 'server_message', None) or str(e).strip() or type(e).__name__
        raise ValueError(f'the hub: {text.splitlines()[0]}{hint}') from e
