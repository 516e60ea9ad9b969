"""Known vulnerabilities of what is installed, and secrets in tracked files. Without a network the first is left open, in a line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent
SECONDS = 120
KNOWN: dict[str, str] = {}
"""Advisories that do not concern alignkit, or name a wrong version, each with the reason."""
NO_SECRETS = (
    r"^(tests/(security/test_secrets|faults/test_hub_faults|(scorers|judges)/test_http|test_configuration)\.py"
    r"|tests/stored_runs/|alignkit/lab/pretrained/)"
)
"""Made-up secrets that tests plant, and fingerprints of weights."""
TOO_VAGUE = ("HexHighEntropyString", "Base64HighEntropyString", "KeywordDetector")
"""Find digests and the word password."""


def vulnerabilities() -> list[str]:
    """A line for each that is known of an installed package."""
    command = [str(BIN / "pip-audit"), "--local", "--skip-editable", "--progress-spinner", "off", "--format", "json", "--timeout", "10"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        packages = json.loads(done.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, OSError, ValueError, KeyError) as error:
        print(f"pip-audit: no answer ({type(error).__name__}); nothing is known of vulnerabilities today")
        return []
    asked = [package for package in packages if "vulns" in package and "skip_reason" not in package]
    if len(asked) < len(packages):
        print(f"pip-audit: {len(asked)} of {len(packages)} packages could be asked about")
    return [
        f"{package['name']} {package['version']}: {found['id']}, mended in {', '.join(found['fix_versions']) or 'no version yet'}"
        for package in asked
        for found in package["vulns"]
        if not {found["id"], *found.get("aliases", [])} & KNOWN.keys()
    ]


def secrets() -> list[str]:
    """A line for each that is found in a file that git knows."""
    tracked = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True).stdout.split("\0")
    files = [file for file in tracked if file and Path(file).is_file() and not Path(file).is_symlink()]
    off = [word for name in TOO_VAGUE for word in ("--disable-plugin", name)]
    command = [str(BIN / "detect-secrets-hook"), "--no-verify", "--json", *off, "--exclude-files", NO_SECRETS, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return []
    found = json.loads(done.stdout)["results"]
    return [f"{file}:{one['line_number']}: {one['type']}" for file, every in found.items() for one in every]


def main() -> int:
    """The exit code: 1 where anything is found."""
    found = [*secrets(), *vulnerabilities()]
    print("\n".join(found) if found else "no secret in tracked files; no vulnerability that is known here")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
