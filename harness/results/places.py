"""Where a results folder lies: in a folder of this machine, or in a bucket of an object store (S3, Google Cloud).

A local place is a :class:`pathlib.Path`. A remote one is a :class:`RemotePlace`, which is addressed as
``s3://BUCKET/FOLDER`` or ``gs://BUCKET/FOLDER`` and reached through :mod:`pyarrow.fs`. An object store has no locks and
no rename: an object is written whole, and readers see all of it or nothing.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote
from urllib.request import url2pathname

import pyarrow as pa
from pyarrow import fs

from harness.errors import UsageError
from harness.interrupts import uninterrupted
from harness.paths import typed_path

_ALLOWED = "give a folder, file:///FOLDER, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER"
# two letters at least, because C:/ is a drive
_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):(?P<slashes>//?)(?P<rest>.*)", re.DOTALL)
_OPTIONS = {
    "s3": ("anonymous", "endpoint_override", "region", "scheme"),
    "gs": ("anonymous", "endpoint_override", "scheme"),
}
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
}
_CONNECT_S, _ANSWER_S, _ATTEMPTS = 5.0, 30.0, 3
# Google's library tries again until then
_RETRY_S = 8.0
_LONGEST_REASON = 300
_GONE = ("NO_SUCH_KEY", "RESOURCE_NOT_FOUND")

# words in what a store's library says -> what that means, and what to do; the first that fits
_FAULTS = (
    (r"NO_SUCH_BUCKET|bucket does not exist", "there is no such bucket; make it first, or mend its name"),
    (r"INVALID_(?:ACCESS_KEY|SIGNATURE|CLIENT_TOKEN)|SIGNATURE_DOES_NOT|UNRECOGNIZED_CLIENT|EXPIRED|AUTHENTICATED|[Cc]redential|OAuth2",
     "the credentials are missing or wrong; set {credentials}"),
    (r"ACCESS_DENIED|HTTP status 403|PERMISSION_DENIED|[Pp]ermission.*denied",
     "access is denied; set {credentials} to those of an account that may read and write there"),
    (r"PERMANENT_REDIRECT|HTTP status 301|AUTHORIZATION_HEADER_MALFORMED",
     "the bucket lies in another region; set AWS_REGION, or add ?region=REGION"),
    (r"NETWORK_CONNECTION|curlCode|[Cc]ould ?n.t resolve|[Cc]onnect|[Tt]imed? ?out|UNAVAILABLE|DEADLINE",
     "the store cannot be reached; check the network and the endpoint"),
)  # fmt: skip


@dataclass(frozen=True)
class RemotePlace:
    """A folder or an object in an object store.

    Attributes:
        scheme: of its address: ``s3`` or ``gs``.
        path: bucket and key, such as ``bucket/sweep/trials``.
        options: how to reach the store: the names and values behind the question mark of the address.
        root: ``path`` of the address as it was given.
        size: bytes of an object that was listed; None: not known.
    """

    scheme: str
    path: str
    options: tuple[tuple[str, str], ...]
    root: str
    size: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        """Return the address; with its options, as it was given, if it is the whole results folder."""
        options = "&".join(f"{name}={value}" for name, value in self.options)
        return f"{self.scheme}://{self.path}{f'?{options}' if options and self.path == self.root else ''}"

    def __truediv__(self, name: str) -> "RemotePlace":
        return replace(self, path=f"{self.path}/{name}", size=None)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return self.name.rsplit(".", 1)[0]

    @property
    def suffix(self) -> str:
        """The ending of the name, with its dot."""
        return Path(self.name).suffix

    @property
    def parent(self) -> "RemotePlace":
        """The folder that it lies in."""
        return replace(self, path=self.path.rsplit("/", 1)[0], size=None)

    def folders(self) -> list[str]:
        """Return the names of the folders directly in it.

        Raises:
            UsageError: the store cannot be reached, denies access, or has no such bucket.
        """
        selector = fs.FileSelector(self.path, allow_not_found=True)
        with self.answering():
            entries = self._store.get_file_info(selector)
            if not entries:
                # only this tells a missing bucket from an empty folder
                self._store.get_file_info(fs.FileSelector(self.path.split("/")[0]))
        return sorted(entry.base_name for entry in entries if entry.type == fs.FileType.Directory)

    def objects(self) -> list["RemotePlace"]:
        """Return all objects below it, by name.

        Raises:
            UsageError: the store cannot be reached, or denies access.
        """
        with self.answering():
            entries = self._store.get_file_info(fs.FileSelector(self.path, allow_not_found=True, recursive=True))
        whole = [entry for entry in entries if entry.type == fs.FileType.File]
        return sorted((replace(self, path=entry.path, size=entry.size) for entry in whole), key=lambda own: own.path)

    def exists(self) -> bool:
        """Return whether there is such an object or folder.

        Raises:
            UsageError: the store cannot be reached, or denies access.
        """
        with self.answering():
            return bool(self._store.get_file_info(self.path).type != fs.FileType.NotFound)

    def opened(self) -> pa.NativeFile:
        """Open the object for reading at any position.

        Raises:
            FileNotFoundError: there is no such object.
            UsageError: the store cannot be reached, or denies access.
        """
        with self.answering():
            return self._store.open_input_file(self.path)

    def read_bytes(self) -> bytes:
        """Return what the object holds; errors as of :meth:`opened`."""
        with self.answering(), self._store.open_input_stream(self.path) as stream:
            content: bytes = stream.read()
        return content

    def put(self, content: "bytes | pa.Buffer") -> None:
        """Write the object whole; one of that name is replaced.

        Raises:
            UsageError: the store cannot be reached, denies access, or has no such bucket.
        """
        # in one piece, because a stream that is closed early, by Ctrl-C say, would publish what it has
        with uninterrupted(), self.answering(), self._store.open_output_stream(self.path) as stream:
            stream.write(content)

    def remove(self) -> None:
        """Remove the object, if it is there.

        Raises:
            UsageError: the store cannot be reached, or denies access.
        """
        with suppress(FileNotFoundError), self.answering():
            self._store.delete_file(self.path)

    def remove_empty(self) -> None:
        """Remove the mark of a folder that a store's library leaves where the last object was removed.

        Raises:
            UsageError: the store cannot be reached, or denies access.
        """
        if not self.objects():
            with suppress(FileNotFoundError), self.answering():
                self._store.delete_dir(self.path)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Turn what the store's library raises in the block into one line that says what to do.

        Raises:
            FileNotFoundError: an object is not there.
            UsageError: anything else is wrong with the store.
        """
        try:
            yield
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "No such object", str(self)) from error
        except (OSError, pa.ArrowException) as error:
            raise self.fault(error) from error

    @staticmethod
    def is_fault(error: BaseException) -> bool:
        """Return whether an error that reading raised is the store's, and not that of what was read."""
        return any(word in str(error) for word in ("AWS Error", "google::cloud", "HTTP status"))

    def fault(self, error: BaseException) -> UsageError | FileNotFoundError:
        """Return the error to raise where the store's library raised this one."""
        text = " ".join(str(error).split())
        if any(word in text for word in _GONE):
            return FileNotFoundError(errno.ENOENT, "No such object", str(self))
        said = re.split(r" \(Request ID| error_info=", text)[0][:_LONGEST_REASON]
        fixes = (fix for words, fix in _FAULTS if re.search(words, text))
        fix = next(fixes, "look up what the store says, and try again").format(credentials=_CREDENTIALS[self.scheme])
        # the store names the object itself
        return UsageError(f"{replace(self, path=self.root)}: {fix} ({said})")

    @property
    def _store(self) -> fs.FileSystem:
        return _connected(self.scheme, self.path.split("/")[0], self.options)


Place = Path | RemotePlace
"""A results folder, or a file in one."""


def place_of(given: str | Place, name: str = "") -> Place:
    """Return the place that a folder's name or address stands for; nothing is made, and no store is asked.

    Args:
        given: a folder (``~`` is home), ``file:///FOLDER``, ``s3://BUCKET/FOLDER?OPTIONS`` or ``gs://BUCKET/FOLDER?OPTIONS``.
        name: what to put before it in an error, such as ``results.dir=``.

    Raises:
        UsageError: the scheme or an option is unknown, or the address is none.
    """
    if isinstance(given, RemotePlace):
        return given
    match = _ADDRESS.fullmatch(str(given))
    scheme = match["scheme"].lower() if match else ""
    if match is None or (match["slashes"] == "/" and scheme not in {"file", *_OPTIONS}):
        return given if isinstance(given, Path) else typed_path(given, name)
    if match["slashes"] == "/":
        # what is left of an address in a pathlib.Path
        raise UsageError(f"{name}{given}: an address needs two slashes, and is text and no Path; {_ALLOWED}")
    if scheme == "file":
        return _local(match["rest"], f"{name}{given}")
    if scheme not in _OPTIONS:
        raise UsageError(f"{name}{given}: the scheme {scheme}:// is unknown; {_ALLOWED}")
    return _remote(scheme, match["rest"], name)


def _local(rest: str, shown: str) -> Path:
    path = rest.removeprefix("localhost")
    if not path.startswith("/"):
        raise UsageError(f"{shown}: has no absolute path; give file:///FOLDER, with three slashes")
    return Path(url2pathname(path) if os.name == "nt" else unquote(path))


def _remote(scheme: str, rest: str, name: str) -> RemotePlace:
    location, _, query = rest.partition("?")
    parts = [part for part in location.split("/") if part]
    if parts and "@" in parts[0]:
        # never shown, and not taken, because the address is stored with every trial
        raise UsageError(
            f"{name}{scheme}://...: the address holds credentials, which would be stored with the results; "
            f"set {_CREDENTIALS[scheme]}"
        )
    shown = f"{name}{scheme}://{rest}"
    if not parts or {".", ".."} & set(parts):
        raise UsageError(f"{shown}: is no address of a folder; give {scheme}://BUCKET/FOLDER")
    options = tuple(parse_qsl(query, keep_blank_values=True))
    for option, value in options:
        if option not in _OPTIONS[scheme] or not value:
            allowed = ", ".join(_OPTIONS[scheme])
            raise UsageError(f"{shown}: the option {option}={value} is unknown or empty; options are: {allowed}")
    path = "/".join(parts)
    return RemotePlace(scheme, path, options, path)


@cache
def _connected(scheme: str, bucket: str, options: tuple[tuple[str, str], ...]) -> fs.FileSystem:
    """The store's file system, with short time-outs and few attempts."""
    chosen: dict[str, Any] = dict(options)
    if "anonymous" in chosen:
        chosen["anonymous"] = chosen["anonymous"].lower() in ("true", "1", "yes")
    if scheme == "gs":
        return fs.GcsFileSystem(**chosen, retry_time_limit=timedelta(seconds=_RETRY_S))
    # pyarrow passes over these variables, which all other programs for S3 follow
    endpoint = chosen.pop("endpoint_override", None) or os.environ.get("AWS_ENDPOINT_URL_S3")
    endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        protocol, _, host = endpoint.rpartition("://")
        chosen = {"scheme": protocol or "https", **chosen, "endpoint_override": host.rstrip("/")}
    elif not {"AWS_REGION", "AWS_DEFAULT_REGION"} & set(os.environ):
        chosen.setdefault("region", fs.resolve_s3_region(bucket))
    return fs.S3FileSystem(
        **chosen,
        connect_timeout=_CONNECT_S,
        request_timeout=_ANSWER_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
    )
