"""The copy of an archive in an object store (S3 and the like): reading, and what a sync writes."""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from threading import local
from types import SimpleNamespace
from typing import Any, BinaryIO, Literal, NamedTuple

import pyarrow as pa

from harvester.errors import ArchiveError, ArchiveUnwritable, UsageError, brief, not_installed
from harvester.storage.filesystem import MAX_LISTINGS, Entry, LocalStore

try:
    import fsspec
    import obstore
    from obstore.exceptions import BaseError, PreconditionError
    from obstore.store import from_url
except ImportError as error:
    need = "an archive in an object store needs obstore and fsspec"
    raise not_installed(need, "obstore", "fsspec") from error

# --- client ---------------------------------------------------------------------------------------

SCHEMES = ("s3", "gs", "az")

_TIMEOUT = timedelta(minutes=5)
"""For a request with a whole part: a line of 300 kbit/s is fast enough."""

_RETRIES: Any = {
    "max_retries": 8,
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=5)},
}
"""A store that does not answer, or answers 5xx, is an error after some 15 seconds."""

_INSTANCE_METADATA = "169.254.169.254"
"""The address that the client asks for credentials where no variable has any."""


@cache
def _client(bucket: str, endpoint: str, *_settings: str | None) -> Any:  # noqa: ANN401 - a class for each kind of store
    """The client of a bucket, such as `s3://bucket`; it reads its settings from the environment.

    The other arguments are settings that tests and notebooks change while a process runs.
    """
    options: dict[str, Any] = {"timeout": _TIMEOUT}
    more: dict[str, Any] = {}
    if bucket.startswith("s3:"):
        options["allow_http"] = endpoint.startswith("http://")
        # Not every store has it, and a sync deletes few objects.
        more["disable_bulk_delete"] = True
        if "AWS_ACCESS_KEY_ID" not in os.environ and "AWS_PROFILE" in os.environ:
            more["credential_provider"] = _profile_credentials()
    build: Any = from_url  # its overloads know the kind of store
    return build(bucket, client_options=options, retry_config=_RETRIES, **more)


def _profile_credentials() -> Any:  # noqa: ANN401 - boto3 is optional
    """Credentials of the profile AWS_PROFILE, which boto3 reads from the files of the AWS tools."""
    try:
        from obstore.auth.boto3 import Boto3CredentialProvider  # noqa: PLC0415 - it is optional
    except ImportError as error:
        need = "AWS_PROFILE is set (AWS_ACCESS_KEY_ID is not), which needs boto3"
        raise not_installed(need, "boto3") from error
    return Boto3CredentialProvider()


def _client_and_key(location: str) -> tuple[Any, str]:
    """The client of the bucket of an object, and the object's key in it."""
    scheme, _, rest = location.partition("://")
    bucket, _, key = rest.partition("/")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    settings = [os.environ.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE")]
    with _reporting(location):
        return _client(f"{scheme}://{bucket}", endpoint, *settings), key


@contextmanager
def _reporting(location: str, doing: Literal["read", "write"] = "read") -> Iterator[None]:
    """Turn errors of the store into harvester's; an object that is gone is FileNotFoundError.

    Raises:
        FileNotFoundError: there is no such object, or it was replaced since it was listed.
        ArchiveError: the store can't be reached, or refuses.
    """
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        text = str(error)
        is_gone = isinstance(error, FileNotFoundError | PreconditionError)
        if is_gone and "NoSuchBucket" not in text:
            raise FileNotFoundError(errno.ENOENT, "no such object", location) from error
        kind = ArchiveError if doing == "read" else ArchiveUnwritable
        raise kind(f"can't {doing} {location}: {_reason(text)}") from error


def _reason(text: str) -> str:
    """The reason in the message of an error: the store's own words, if it sent any."""
    if "NoSuchBucket" in text:
        return "there is no such bucket"
    if _INSTANCE_METADATA in text:
        return (
            "there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "AWS_PROFILE (AWS_SKIP_SIGNATURE=true for a public bucket)"
        )
    first_line = text.partition("\n")[0]
    request = re.search(r"Error performing \w+ (\w+://[^/ ]+)\S* in .*? - (.*)", first_line)
    if request is None:
        return brief(first_line)
    host, what = request.groups()
    message = re.search("<Message>([^<]+)", text)
    what = re.sub(r":?\s*(<.*)?$", "", what) + (f": {message[1]}" if message else "")
    return brief(f"{what} ({host})")


# --- files of DuckDB and Arrow --------------------------------------------------------------------


class StoredObject(NamedTuple):
    """An object as a listing of the store shows it; the path is relative to the archive."""

    path: str
    size: int
    changed_ns: int
    e_tag: str


class ObjectFile(io.RawIOBase):
    """An object, opened for reading; each read is one request."""

    def __init__(
        self, location: str, listed: StoredObject, *, position_per_thread: bool = False
    ) -> None:
        """Open an object as it was listed: once it is replaced, reading it fails.

        Args:
            location: its URL.
            listed: as a listing showed it.
            position_per_thread: for threads of DuckDB, which share a file, and each of which sets
                the position before it reads.
        """
        self._location = location
        self._listed = listed
        self._state: Any = local() if position_per_thread else SimpleNamespace()

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The position of the next byte."""
        return getattr(self._state, "position", 0)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to a position, as for any file."""
        position = offset + (0, self.tell(), self._listed.size)[whence]
        self._state.position = position
        return position

    def readinto(self, buffer: Any, /) -> int:  # noqa: ANN401 - typeshed's buffer
        """Read as many bytes as fit, or as there are."""
        start = self.tell()
        end = min(start + len(buffer), self._listed.size)
        if start >= end:
            return 0
        client, key = _client_and_key(self._location)
        with _reporting(self._location):
            options: Any = {"range": (start, end), "if_match": self._listed.e_tag or None}
            data = obstore.get(client, key, options=options).bytes()
        buffer[: len(data)] = memoryview(data)
        self._state.position = start + len(data)
        return len(data)


READ_AHEAD_BYTES = 1 << 20
"""A row group of a segment is a few columns one after the other: one request gets most of them."""


class ObjectFiles(fsspec.AbstractFileSystem):  # type: ignore[misc] # fsspec has no types
    """Objects as files, for DuckDB and Arrow: what a listing showed of them is not asked again."""

    protocol = SCHEMES
    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.listed: dict[str, StoredObject] = {}

    def glob(self, path: str, **_options: object) -> list[str]:
        """The path itself: DuckDB is given lists of files, with wildcards in brackets."""
        return [re.sub(r"\[(.)\]", r"\1", path)]

    def open(self, path: str, mode: str = "rb", **_options: object) -> ObjectFile:
        """Open an object for reading."""
        if mode != "rb":
            raise UsageError(f"{path} can't be written: an object store holds a copy")
        return ObjectFile(path, self.stat(path), position_per_thread=True)

    def open_input_file(self, path: str) -> pa.NativeFile:
        """Open an object for Arrow."""
        return pa.PythonFile(io.BufferedReader(ObjectFile(path, self.stat(path)), READ_AHEAD_BYTES))

    def size(self, path: str) -> int:
        """The number of bytes of an object."""
        return self.stat(path).size

    def modified(self, path: str) -> datetime:
        """When an object was written: DuckDB keeps what it read of it until that changes."""
        return datetime.fromtimestamp(self.stat(path).changed_ns / 1e9, UTC)

    def stat(self, path: str) -> StoredObject:
        """What is known of an object, which is asked for if no listing showed it."""
        found = self.listed.get(path)
        if found is None:
            client, key = _client_and_key(path)
            with _reporting(path):
                found = self.listed[path] = _stored(obstore.head(client, key), "")
        return found


FILES = ObjectFiles()
"""The objects of all stores that this process reads."""


def _stored(meta: Any, prefix: str) -> StoredObject:  # noqa: ANN401 - a TypedDict of obstore
    changed_us = (meta["last_modified"] - datetime.fromtimestamp(0, UTC)) // timedelta(
        microseconds=1
    )
    path = meta["path"].removeprefix(prefix)
    return StoredObject(path, meta["size"], changed_us * 1000, meta["e_tag"] or "")


# --- store ----------------------------------------------------------------------------------------


class ObjectStore(LocalStore):
    """The files of an archive in an object store. Paths are relative to the archive's URL.

    It is read like a folder. Whatever writes needs `root`, which a store has not; `sync` alone
    writes here.
    """

    filesystem = duckdb_files = FILES

    def __init__(self, url: str) -> None:
        """Name an archive by its URL, such as `s3://bucket/prefix`; nothing is asked yet.

        Raises:
            UsageError: it is no such URL, or the libraries are missing.
        """
        self.url = url.rstrip("/")
        scheme, _, rest = self.url.partition("://")
        bucket, *folders = rest.split("/")
        # The client leaves out a slash at the beginning, and refuses the others.
        if scheme not in SCHEMES or not bucket or {"", ".", ".."}.intersection(folders):
            known = " or ".join(f"{name}://BUCKET/PREFIX" for name in SCHEMES)
            raise UsageError(f"{brief(url)} is no archive in an object store: give {known}")
        self._prefix = "".join(f"{folder}/" for folder in folders)

    @property
    def root(self) -> Path:  # type: ignore[override]
        """The folder that writers need, which an object store does not have.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            f"{self.url} is the copy of an archive, which is only read: work in the archive's "
            "folder (--data DIR); the command sync brings the copy up to date"
        )

    def location(self, path: str) -> str:
        """The URL of a file."""
        return f"{self.url}/{path}" if path else self.url

    def files(
        self, folder: str, *, refuse_links: bool = False, excluding: str | None = None
    ) -> list[Entry]:
        """List all files below a folder, as `LocalStore.files` does; there are no links."""
        del refuse_links
        if excluding is None:
            return [Entry(*found[:3]) for found in self.objects(folder)]
        folders = [f"{folder}/{name}" for name in self.folders(folder)]
        others = [path for path in folders if not path.startswith(excluding)]
        found = [entry for path in others for entry in self.files(path)]
        client, key = _client_and_key(self.location(folder))
        with _reporting(self.location(folder)):
            direct = obstore.list_with_delimiter(client, key)["objects"]
        return sorted([*found, *(Entry(*_stored(meta, self._prefix)[:3]) for meta in direct)])

    def objects(self, folder: str) -> list[StoredObject]:
        """List all objects below a folder; again if it changed meanwhile.

        A long listing comes in pages. One that shows neither the segments that were merged nor the
        one that they became would show a gap where there is none.
        """
        found = self._list(folder)
        for _ in range(MAX_LISTINGS):
            previous, found = found, self._list(folder)
            if found == previous:
                break
        FILES.listed.update((self.location(item.path), item) for item in found)
        return found

    def _list(self, folder: str) -> list[StoredObject]:
        client, key = _client_and_key(self.location(folder))
        with self._no_bucket(folder), _reporting(self.location(folder)):
            pages = obstore.list(client, key, chunk_size=1000)
            return sorted(_stored(meta, self._prefix) for page in pages for meta in page)

    def folders(self, folder: str) -> list[str]:
        """List the names of the folders directly below a folder."""
        client, key = _client_and_key(self.location(folder))
        with self._no_bucket(folder), _reporting(self.location(folder)):
            prefixes = obstore.list_with_delimiter(client, key)["common_prefixes"]
        return sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in prefixes)

    @contextmanager
    def _no_bucket(self, folder: str) -> Iterator[None]:
        """Raise ArchiveError on FileNotFoundError: a missing folder lists as empty.

        So the error means that the bucket does not exist.
        """
        try:
            yield
        except FileNotFoundError as error:
            location = self.location(folder)
            raise ArchiveError(f"can't read {location}: there is no such bucket") from error

    def read(self, path: str) -> bytes | None:
        """Read a small file; None where it is absent."""
        client, key = _client_and_key(self.location(path))
        try:
            with _reporting(self.location(path)):
                return bytes(obstore.get(client, key).bytes())
        except FileNotFoundError:
            return None

    # --- writes of a sync -------------------------------------------------------------------------

    def upload(self, path: str, file: BinaryIO, part_bytes: int) -> str:
        """Write an object, at once or not at all; return its ETag.

        Args:
            path: within the archive; an object there is replaced.
            file: its content.
            part_bytes: a larger file is sent in parts of this size.

        Raises:
            ArchiveUnwritable: the store can't be reached, or refuses.
        """
        client, key = _client_and_key(self.location(path))
        file.seek(0)
        with _reporting(self.location(path), "write"):
            result = obstore.put(client, key, file, chunk_size=part_bytes, max_concurrency=2)
        return result["e_tag"] or ""

    def has_content(self, path: str, file: BinaryIO) -> bool:
        """Whether an object exists and has the bytes of a file: it is read.

        Args:
            path: within the archive.
            file: is read from its beginning.
        """
        client, key = _client_and_key(self.location(path))
        file.seek(0)
        with suppress(FileNotFoundError), _reporting(self.location(path)):
            parts = obstore.get(client, key).stream()
            return all(file.read(len(part)) == bytes(part) for part in parts) and not file.read(1)
        return False

    def remove(self, path: str) -> None:
        """Delete an object; it is no error if it is gone already."""
        client, key = _client_and_key(self.location(path))
        with suppress(FileNotFoundError), _reporting(self.location(path), "write"):
            obstore.delete(client, key)
