"""Audit installed packages for known vulnerabilities; exits with 1 if there are any."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig

COMMAND = (".venv-audit/bin/pip-audit", "--skip-editable", "--progress-spinner=off", "--format=json")


def main() -> int:
    """Run pip-audit; return 1 if a vulnerability is known, 0 if not or if PyPI is unavailable."""
    asked = subprocess.run([*COMMAND, "--path", sysconfig.get_path("purelib")], check=False, capture_output=True)
    try:
        packages = json.loads(asked.stdout)["dependencies"]
    except (ValueError, KeyError):
        *_, reason = asked.stderr.decode().strip().splitlines() or ["no answer"]
        return _printed(f"Not audited: PyPI is unavailable ({reason[:200]}).")
    audited = [package for package in packages if "skip_reason" not in package]
    if not audited:
        return _printed("Not audited: pip's index does not serve vulnerabilities. Use pypi.org.")
    for package in audited:
        for found in package["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "no release"
            _printed(f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}.")
    _printed(f"Audited {len(audited)} of {len(packages)} packages.")
    return int(any(package["vulns"] for package in audited))


def _printed(line: str) -> int:
    print(line)  # noqa: T201 - output of the command
    return 0


if __name__ == "__main__":
    sys.exit(main())
