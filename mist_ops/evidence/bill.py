"""Bill of materials of models in CycloneDX 1.6: their weights, and the packages that they were trained with."""

from __future__ import annotations

from collections.abc import Iterator

from mist_ops.evidence.sources import Evidence
from mist_ops.types import Json

_PLATFORM = ("python", "cuda")


def bill_of_materials(evidence: Evidence) -> Json:
    """Components without a date or a serial number, so that the same models give the same bill.

    Passports of version 1.0 and earlier record the packages that compute only; later ones all that were installed.
    """
    task = evidence.config.dataset_info.task
    found: dict[tuple[str, str], list[str]] = {}
    for fold, passport in evidence.passports.items():
        versions = {**passport.packages, **{name: version for name, version in passport.versions.items() if version}}
        for name, version in versions.items():
            found.setdefault((name, version), []).append(fold)
    libraries = [_library(name, version, folds) for (name, version), folds in sorted(found.items())]
    models = list(_models(evidence))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": "models", "name": task}},
        "components": [*models, *libraries],
        "dependencies": [
            {"ref": "models", "dependsOn": [model["bom-ref"] for model in models]},
            *(
                {
                    "ref": model["bom-ref"],
                    "dependsOn": [
                        each["bom-ref"]
                        for each, folds in zip(libraries, (found[key] for key in sorted(found)), strict=True)
                        if model["bom-ref"] in folds
                    ],
                }
                for model in models
            ),
        ],
    }


def _models(evidence: Evidence) -> Iterator[Json]:
    for fold, passport in evidence.passports.items():
        yield {
            "type": "machine-learning-model",
            "bom-ref": fold,
            "name": f"{fold}.pt",
            "hashes": [{"alg": "SHA-256", "content": passport.weights}],
            "properties": [{"name": "mist:version", "value": passport.mist_version}],
        }


def _library(name: str, version: str, folds: list[str]) -> Json:
    component: Json = {
        "type": "platform" if name in _PLATFORM else "library",
        "bom-ref": f"{name}=={version}",
        "name": name,
        "version": version,
        "properties": [{"name": "mist:trained", "value": fold} for fold in folds],
    }
    if name not in _PLATFORM:
        component["purl"] = f"pkg:pypi/{name.lower().replace('_', '-')}@{version.replace('+', '%2B')}"
    return component
