"""What patients are called in a pack: their ids, or pseudonyms that only the holder of a key can trace back."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import string
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mist_ops.errors import ConfigError

_PATH = re.compile(r"(?<![\w.])(?:~|[A-Za-z]:)?[/\\][^\s'\",;()]+")
_KEY = re.compile(r"[0-9a-f]{64}\s*")
_SHORT = 6


class Names:
    """Names of the patients in a pack.

    Args:
        ids: All ids that the sources of the pack may mention.
        key: Secret of the pseudonyms; None to use the ids.
    """

    def __init__(self, ids: Collection[str], key: bytes | None = None) -> None:
        self.ids, self.key = frozenset(ids), key

    def __call__(self, case_id: str) -> str:
        """The name of a patient: its id, or the first 12 digits of HMAC-SHA256(key, id) after a ``p``."""
        if self.key is None:
            return case_id
        return f"p{hmac.new(self.key, case_id.encode(), hashlib.sha256).hexdigest()[:12]}"

    def text(self, text: str) -> str:
        """A message with the names of patients in place of their ids, and without paths."""
        if self.key is None:
            return text
        return self._mentioned.sub(lambda found: self(found[0]), _PATH.sub("(path)", text)) if self.ids else text

    def value(self, value: Any) -> Any:
        """A JSON value in which every id, as a key, as a value or in a message, is replaced."""
        if self.key is None:
            return value
        if isinstance(value, Mapping):
            return {self(key) if key in self.ids else key: self.value(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(each) for each in value]
        return self.text(value) if isinstance(value, str) else value

    def renamed(self, by_id: Mapping[str, Any]) -> dict[str, Any]:
        """A mapping by id as one by name, sorted, so that the order reveals nothing."""
        return dict(sorted((self(case_id), value) for case_id, value in by_id.items()))

    @cached_property
    def _mentioned(self) -> re.Pattern[str]:
        longest = sorted(self.ids, key=lambda case_id: (-len(case_id), case_id))
        return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)")

    def check(self, members: Mapping[str, bytes]) -> None:
        """Check that no id is left in the members of a pack with pseudonyms.

        Ids of less than six hexadecimal digits are skipped, as they occur by chance in hashes.

        Raises:
            ConfigError: One is, or two patients have the same pseudonym.
        """
        if self.key is None:
            return
        if len({self(case_id) for case_id in self.ids}) < len(self.ids):
            raise ConfigError(
                "Two patients have the same pseudonym with this key. Use another key.", code="pseudonyms-collide"
            )
        for case_id in sorted(filter(_recognizable, self.ids)):
            # As it is, in JSON and in an identifier of Croissant.
            forms = {case_id.encode(), json.dumps(case_id)[1:-1].encode(), quote(case_id, safe="").encode()}
            words = [(form, re.compile(rb"(?<![A-Za-z0-9])" + re.escape(form) + rb"(?![A-Za-z0-9])")) for form in forms]
            for name, content in members.items():
                if any(form in content and word.search(content) for form, word in words):
                    raise ConfigError(
                        f"The id '{case_id}' occurs in {name}, although ids are replaced by pseudonyms. No pack was "
                        "written. Rename the patient if its id is also the name of a channel, class or setting.",
                        code="id-in-pack",
                        case=case_id,
                        found=name,
                    )


def _recognizable(case_id: str) -> bool:
    return len(case_id) >= _SHORT or not set(case_id) <= set(string.hexdigits)


def read_key(path: Path, *, create: bool = True) -> bytes:
    """Read the key of pseudonyms; a new one is written if the file is missing, readable for its owner only.

    Args:
        path: The file.
        create: Whether to write a new key.

    Raises:
        ConfigError: The file is not a key.
        OSError: It cannot be read or written.
    """
    if create and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(f"{secrets.token_hex(32)}\n", encoding="ascii")
    text = path.read_text(encoding="utf-8", errors="replace")
    if not _KEY.fullmatch(text):
        raise ConfigError(
            f"{path} is not a key of pseudonyms. Expected: 64 hexadecimal digits, as this program writes to a file "
            "that is missing. Give that file, or the path of a new one.",
            code="key-invalid",
            file=path,
            field="--pseudonymize",
        )
    return bytes.fromhex(text)


def ids_of(*mappings: Iterable[str]) -> frozenset[str]:
    """All ids in some collections."""
    return frozenset(case_id for each in mappings for case_id in each)
