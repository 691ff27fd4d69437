"""What made a number: the command, the commit, the weights."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from shortcut_policy.model import Model
from shortcut_policy.paths import PACKAGE_DIR


def command_line() -> str:
    """The command that runs now, as one would type it."""
    program = Path(sys.argv[0])
    name = os.path.relpath(program) if program.suffix == ".py" else program.name
    return shlex.join([*(["python"] if program.suffix == ".py" else []), name, *sys.argv[1:]])


def commit() -> str:
    """Commit of the source in use, "+" behind it if files differ from it; "unknown" outside a checkout."""
    git = ["git", "-C", str(PACKAGE_DIR.parent)]
    try:
        tracked = subprocess.run(
            [*git, "ls-files", "--error-unmatch", str(PACKAGE_DIR / "__init__.py")], capture_output=True
        )
        if tracked.returncode:
            return "unknown"
        head = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def fingerprint(policy: Model) -> str:
    """Short hash of everything that decides what a model does: weights, statistics and metadata."""
    digest = hashlib.sha256(json.dumps(policy.metadata, sort_keys=True, default=str).encode())
    for name, tensor in sorted(policy.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
