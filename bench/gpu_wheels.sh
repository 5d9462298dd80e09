#!/bin/bash
# Collect the wheels that bench/gpu.py needs on a machine without network (Python 3.12, x86-64, PyTorch installed).
#
#   bench/gpu_wheels.sh FOLDER NNUNET   FOLDER gets ours/, nnunet/ and nnU-Net's script with its stubs
#
# NNUNET is the folder of nnunet.py. FOLDER is best inside the repository and ignored by git, and must stay below 64 MiB.
set -euo pipefail
folder=$1 nnunet=$2 python=${PYTHON:-python3}
ours="annotated-types pydantic pydantic_core typing-inspection typing_extensions nibabel monai connected-components-3d edt
  beartype jaxtyping wadler_lindig dagster dagster-pipes dagster-shared alembic antlr4-python3-runtime backoff click
  coloredlogs docstring_parser greenlet grpcio-health-checking humanfriendly Mako pathlib_abc python-dotenv pytz SQLAlchemy
  structlog tomli tomlkit toposort universal_pathlib watchdog"
theirs="nnunetv2==2.8.1 acvl_utils batchgenerators batchgeneratorsv2 blosc2 dynamic-network-architectures fft-conv-pytorch
  graphviz msgpack ndindex numexpr yacs"
platforms=$(for tag in 2_28 2_27 2_24 2_17 2_12 2_5 2_34 2_35; do echo "--platform manylinux_${tag}_x86_64"; done)
platforms="$platforms --platform manylinux2014_x86_64 --platform manylinux2010_x86_64 --platform manylinux1_x86_64"

fetch() { # FOLDER REQUIREMENT: a wheel, else one built from the source distribution of a pure Python package
  $python -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp $platforms \
    -d "$1" "$2" 2>/dev/null || $python -m pip wheel -q --no-deps -w "$1" "$2"
}

installed() { # REQUIREMENT: with the version in this environment, if it has one
  $python -c 'import sys
from importlib.metadata import PackageNotFoundError, version
name = sys.argv[1]
try: print(f"{name}=={version(name)}")
except PackageNotFoundError: print(name)' "$1"
}

mkdir -p "$folder/ours" "$folder/nnunet"
for name in $ours; do fetch "$folder/ours" "$(installed "$name")"; done
for name in $theirs; do fetch "$folder/nnunet" "$name"; done
cp -r "$nnunet/nnunet.py" "$nnunet/stubs" "$folder/"
chmod -R u+w "$folder"
size=$(du -sm "$folder" | cut -f1)
echo "$folder: $size MiB"
if [ "$size" -ge 60 ]; then echo "$folder is too large: 64 MiB with the working tree." >&2; exit 1; fi
cat <<COMMAND
Bring $folder along, and run with a limit of 560 s:
pip() { python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "\$@"; }
pip site/ours $folder/ours/*.whl && pip site/nnunet $folder/nnunet/*.whl &&
PYTHONPATH=site/ours PYTHONUNBUFFERED=1 python3 bench/gpu.py --nnunet $folder/nnunet.py --nnunet-site site/nnunet 2>&1 | tee \${OUT:-.}/table.md
COMMAND
