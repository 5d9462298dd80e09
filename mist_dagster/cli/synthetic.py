"""``mist_phantoms``: writes files and starts no run."""

import sys

from mist_dagster.cli import next_step
from mist_dagster.cli.options import PhantomsOptions


def run(options: PhantomsOptions) -> int:
    """Run ``mist_phantoms``; return 1 if the folder is in use, else 0."""
    from mist_ops.files import atomic_folder
    from mist_ops.phantoms import write_phantoms

    folder = options.output.expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        print(f"Error: --output {folder} exists and is not an empty folder. Choose another.", file=sys.stderr)  # noqa: T201
        return 1
    with atomic_folder(folder) as temporary:
        write_phantoms(temporary, patients=options.patients, tests=options.tests, seed=options.seed)
    print(f"Wrote {folder / 'dataset.json'} with {options.patients} patients.")  # noqa: T201
    print(f"Next: {next_step.after('phantoms', options)}")  # noqa: T201
    return 0
