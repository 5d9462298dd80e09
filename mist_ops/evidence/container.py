"""The file of a pack: an uncompressed zip whose comment is the SHA-256 of all bytes before it.

Any tool opens it, ``head -c -64 pack.zip | sha256sum`` prints what ``tail -c 64 pack.zip`` should be, and the same
members give the same bytes, as nothing is compressed and nothing is dated.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any

from mist_ops.errors import ConfigError

MANIFEST = "manifest.json"
FORMAT = "mist-evidence 1"
_DIGITS = 64
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)
_BROKEN = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    zipfile.BadZipFile,
    NotImplementedError,
    EOFError,
    RecursionError,
)


def sha256(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def as_json(value: Any) -> bytes:
    """A JSON value as bytes, the same for the same value."""
    return f"{json.dumps(value, indent=1, sort_keys=True, allow_nan=False)}\n".encode("ascii")


def packed(members: Mapping[str, bytes]) -> bytes:
    """The bytes of a pack with these members and a manifest of their hashes."""
    manifest = {"format": FORMAT, "members": {name: sha256(content) for name, content in members.items()}}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted({**members, MANIFEST: as_json(manifest)}.items()):
            entry = zipfile.ZipInfo(name, _FIRST_DAY)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, content)
        archive.comment = b"0" * _DIGITS
    before = buffer.getvalue()[:-_DIGITS]
    return before + sha256(before).encode("ascii")


def unpacked(content: bytes, file: object) -> dict[str, bytes]:
    """The members of a pack, after every byte of it was compared with its hashes.

    Raises:
        ConfigError: It is not a pack, or a byte of it changed.
    """
    if content[:2] != b"PK" or len(content) <= _DIGITS:
        raise _changed(file, "it is not an evidence pack")
    if sha256(content[:-_DIGITS]).encode("ascii") != content[-_DIGITS:]:
        raise _changed(file, "its bytes do not match the hash at its end")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            if sum(entry.file_size for entry in archive.infolist()) > len(content):  # a pack is not compressed
                raise ValueError("its members are larger than the file")
            members = {name: archive.read(name) for name in names}
        manifest = json.loads(members.pop(MANIFEST))
        listed = dict(manifest["members"])
    except _BROKEN as error:
        raise _changed(file, f"it cannot be read ({error})") from error
    if manifest.get("format") != FORMAT:
        raise _changed(file, f"its format is {manifest.get('format')!r} and not '{FORMAT}'")
    wrong = sorted(name for name in {*members, *listed} if sha256(members.get(name, b"")) != listed.get(name))
    if wrong or len(names) != len(members) + 1:
        raise _changed(file, f"{wrong[0] if wrong else 'a member'} does not match the manifest")
    return members


def _changed(file: object, problem: str) -> ConfigError:
    return ConfigError(
        f"{file} is not intact: {problem}. Ask for the pack again, and compare its SHA-256 with the one that was given "
        "with it.",
        code="pack-changed",
        file=file,
    )
