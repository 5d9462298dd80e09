"""The model card of a pack: Markdown with what the records say, and with nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from mist_ops.errors import counted
from mist_ops.evidence.names import Names
from mist_ops.evidence.sources import Evidence
from mist_ops.records.passport import Passport

_VERIFY = """\
## Verification

`python verify.py PACK` compares every byte of the pack with its hashes, follows each model to the hashes of the scans
that it was trained on, and checks the chain of the history; `python verify.py PACK FOLDER` also compares the scans in a
folder. `verify.py` is in the pack and needs Python only; take it from a source that you trust. The pack is not signed:
it shows that nothing changed since it was made, not who made it. Compare its SHA-256 with the one that you were
given."""


def model_card(evidence: Evidence, names: Names) -> str:
    """Describe models, data, training, scores, reviews and what was accepted."""
    sections = (_models, _data, _training, _scores, _judgments)
    parts = [f"# {evidence.config.dataset_info.task}", "Made from the records of the study; nothing was added by hand."]
    return "\n\n".join([*parts, *("\n".join(part(evidence, names)) for part in sections), _VERIFY]) + "\n"


def _models(evidence: Evidence, names: Names) -> Iterator[str]:
    config = evidence.config
    yield "## Models\n"
    yield from _table(
        ["", ""],
        [
            ["Task", config.dataset_info.task],
            ["Network", config.model.architecture],
            ["Input", ", ".join(config.dataset_info.images)],
            ["Modality", config.dataset_info.modality],
            ["Labels", ", ".join(map(str, config.dataset_info.labels))],
            ["Patch size", f"{' × '.join(map(str, config.spatial_config.patch_size))} voxels"],
            ["Voxel spacing", f"{' × '.join(f'{each:g}' for each in config.spatial_config.target_spacing)} mm"],
        ],
    )
    yield ""
    hashes = {fold: passport.weights for fold, passport in evidence.passports.items()} | dict(evidence.beside)
    yield from _table(["Model", "SHA-256"], [[name, f"`{digest}`"] for name, digest in hashes.items()])


def _data(evidence: Evidence, names: Names) -> Iterator[str]:
    yield "## Data\n"
    scans = sum(len(record.inputs) for record in evidence.arrays.values())
    yield f"{counted(len(evidence.arrays), 'patient')} with {counted(scans, 'scan or mask', 'scans and masks')}"
    tests = f"; {counted(len(evidence.tests), 'test patient')} without masks" if evidence.tests else ""
    yield f"on record by hash (`provenance.json`){tests}. Parts of each patient are in `folds.csv`.\n"
    yield from _table(
        ["Model", "Training", "Validation", "Held out"],
        [
            [fold, str(len(passport.training)), str(len(passport.validation)), str(len(passport.held_out))]
            for fold, passport in evidence.passports.items()
        ],
    )


def _training(evidence: Evidence, names: Names) -> Iterator[str]:
    facts: Mapping[str, Callable[[Passport], str]] = {
        "Program": lambda passport: f"{passport.mist_version}, training code {passport.version}",
        "Packages": lambda passport: ", ".join(f"{name} {each}" for name, each in passport.versions.items() if each),
        "Seed": lambda passport: str(passport.seed),
        "Epochs": lambda passport: str(len(passport.history)),
        "Selected epoch": lambda passport: str(passport.best_epoch + 1),
        "Validation loss": lambda passport: f"{passport.best_loss:.4f}",
        "Hours": lambda passport: f"{passport.seconds / 3600:.2g}",
        "Device": lambda passport: passport.device,
        "Pretrained": lambda passport: f"`{passport.pretrained.weights}`" if passport.pretrained else "no",
        "Settings changed when it was resumed": lambda passport: names.text("; ".join(passport.changes)) or "none",
    }
    yield "## Training\n"
    rows = [[name, *(fact(passport) for passport in evidence.passports.values())] for name, fact in facts.items()]
    yield from _table(["", *evidence.passports], rows)
    yield "\nAll settings are in `config.json` and in the passports; all packages on record in `sbom.json`."


def _scores(evidence: Evidence, names: Names) -> Iterator[str]:
    yield "## Scores\n"
    scores = evidence.scores
    if scores is None:
        yield f"None: {names.text(evidence.unscored)}."
        return
    level, method = scores.confidence["level"], scores.confidence["method"]
    selecting = {case_id for each in evidence.passports.values() for case_id in {*each.validation} & {*each.held_out}}
    both = len(selecting & scores.rows.keys())
    yield "Of held-out patients, each predicted by the model that was not trained on it"
    yield f"({level:.0%} intervals: {method}). {both} of {len(scores.rows)} also selected the weights of that model.\n"
    yield from _table(
        ["", "Mean", "Interval", "Patients"],
        [
            [
                f"{name} {facts['unit']}".rstrip(),
                *_interval(facts["mean"], facts["low"], facts["high"]),
                facts["patients"],
            ]
            for name, facts in scores.columns.items()
        ],
    )
    if scores.accepted:
        yield "\nChanges since the accepted scores:\n"
        yield from _table(
            ["", "Mean change", "Interval", "Patients", ""],
            [
                [
                    name,
                    *_interval(facts["difference"], facts["low"], facts["high"]),
                    facts["patients"],
                    facts["direction"],
                ]
                for name, facts in scores.accepted["changes"].items()
            ],
        )


def _interval(mean: float | None, low: float | None, high: float | None) -> tuple[str, str]:
    shown = "" if low is None or high is None else f"{low:.4g} to {high:.4g}"
    return "" if mean is None else f"{mean:.4g}", shown


def _judgments(evidence: Evidence, names: Names) -> Iterator[str]:
    yield "## Reviews and decisions\n"
    verdicts = Counter(review.verdict for review in evidence.reviews.values() if review.verdict)
    kinds = Counter(event.kind for event in evidence.history)
    yield from _table(
        ["", "Number"],
        [
            *([f"Verdict: {verdict}", str(count)] for verdict, count in sorted(verdicts.items())),
            *([f"History: {kind}", str(count)] for kind, count in sorted(kinds.items())),
            ["Kept although something changed", str(len(evidence.kept))],
        ],
    )
    accepted = [event for event in evidence.history if event.kind == "accepted"]
    if accepted:
        yield f"\nScores were last accepted at {accepted[-1].at}."


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{' --- |' * len(head)}"
    for row in rows:
        yield f"| {' | '.join('' if cell is None else str(cell).replace('|', '/') for cell in row)} |"
