"""Listing models must not import torch, which takes seconds."""

from __future__ import annotations

import subprocess
import sys


def test_listing_models_does_not_import_torch() -> None:
    program = "import sys; from mist_ops.registry import MODELS; print(*MODELS); sys.exit('torch' in sys.modules)"
    listed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {"nnunet", "fmgnet", "mednext-small", "swinunetr-large"} <= set(listed.stdout.split())
