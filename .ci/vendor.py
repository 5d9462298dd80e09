"""Fetch the scripts of others that the pages of studies load, and check them against known hashes.

They are committed, so that a clone and a wheel work offline. For another version: change ``TARBALL``, ``SHA256`` and
``FOLDER``, run ``make vendor``, and let ``mist_dagster.site.viewer`` name the new folder.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import urllib.request
from pathlib import Path

TARBALL = "https://registry.npmjs.org/@niivue/niivue/-/niivue-0.69.0.tgz"
SHA256 = "6e9a6a471b428eb3b258a0086beca9187d95e43a781a39e8a519c6da246af485"
FOLDER = Path("mist_dagster/site/static/vendor/niivue-0.69.0")
FILES = {
    "package/dist/niivue.umd.js": "niivue.umd.js",
    "package/src/fonts/Roboto-Regular.png": "font.png",  # as a file: the policy of the pages forbids data: addresses
}


def main() -> int:
    """Write the files; return 1 if the package is not the known one."""
    with urllib.request.urlopen(TARBALL, timeout=60) as answer:
        content = answer.read()
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        print(f"{TARBALL} has the SHA-256 {found}, expected {SHA256}. Nothing was written.", file=sys.stderr)  # noqa: T201 - output of the command
        return 1
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as package:
        for name, target in FILES.items():
            member = package.extractfile(name)
            assert member
            (FOLDER / target).write_bytes(member.read())
    return 0


if __name__ == "__main__":
    sys.exit(main())
