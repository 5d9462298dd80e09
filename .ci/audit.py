"""Which installed packages have known vulnerabilities; fails if any has, and says so where nobody could be asked."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig

COMMAND = (".venv-audit/bin/pip-audit", "--skip-editable", "--progress-spinner=off", "--format=json")


def main() -> int:
    """Ask PyPI, by pip-audit; the status is 1 if a vulnerability is known, else 0."""
    asked = subprocess.run([*COMMAND, "--path", sysconfig.get_path("purelib")], check=False, capture_output=True)
    try:
        packages = json.loads(asked.stdout)["dependencies"]
    except (ValueError, KeyError):
        *_, reason = asked.stderr.decode().strip().splitlines() or ["no answer"]
        return _told(f"Not audited: PyPI cannot be asked ({reason[:200]}).")
    audited = [package for package in packages if "skip_reason" not in package]
    if not audited:
        return _told("Not audited: the index that pip uses knows of no vulnerabilities. Ask pypi.org itself.")
    for package in audited:
        for found in package["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "no version yet"
            _told(f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}.")
    _told(f"{len(audited)} of {len(packages)} packages were audited.")
    return int(any(package["vulns"] for package in audited))


def _told(sentence: str) -> int:
    print(sentence)  # noqa: T201 - a command's answer
    return 0


if __name__ == "__main__":
    sys.exit(main())
