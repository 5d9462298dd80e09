"""``mist_slurm.yaml``: whether submitted runs use Slurm, and what each stage asks it for."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from mist_ops.errors import ConfigError, listing
from mist_ops.schema import Section, mistakes
from mist_ops.study import Study

NAME = "mist_slurm.yaml"

MOST_JOBS = 20
"""A process on the login node, of 200 MB, follows each run."""

_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<hours>\d+)(?::(?P<minutes>\d{1,2}))?(?::(?P<seconds>\d{1,2}))?")


def _one_line(value: str) -> str:
    if "\n" in value:
        raise ValueError("must be one line")
    return value


def _with_gpus(value: str) -> str:
    try:
        value.format(gpus=1)
    except (KeyError, IndexError, ValueError):
        raise ValueError("may hold no other braces than {gpus}") from None
    return value


def seconds_of(time: str) -> int:
    """Seconds of a time limit: ``days-hours[:minutes[:seconds]]``, ``hours:minutes:seconds``, or ``minutes[:seconds]``.

    Raises:
        ValueError: It is no such time.
    """
    found = _TIME.fullmatch(time)
    if not found:
        raise ValueError("must be a time such as 1-00:00:00, 12:00:00 or 30 (minutes)")
    first, second, third = (int(found[name] or 0) for name in ("hours", "minutes", "seconds"))
    if found["days"] is not None or found["seconds"] is not None:
        return int(found["days"] or 0) * 86400 + first * 3600 + second * 60 + third
    return first * 60 + second


def _checked_time(value: str) -> str:
    seconds_of(value)
    return value


Line = Annotated[str, AfterValidator(_one_line)]
Time = Annotated[str, AfterValidator(_checked_time)]
Memory = Annotated[str, Field(pattern=r"^\d+[KMGT]?$")]


class Request(Section):
    """What a job asks Slurm for; a field that is not given keeps the value under ``all``."""

    partition: Line | None = Field(None, description="Partition.")
    account: Line | None = Field(None, description="Account that pays.")
    qos: Line | None = Field(None, description="Quality of service.")
    time: Time | None = Field(None, description="Time limit. A training that reaches it continues in another job.")
    memory: Memory | None = Field(None, description="Main memory of a node.")
    cpus: PositiveInt | None = Field(None, description="Cores.")
    gpus: NonNegativeInt | None = Field(None, description="GPUs; several train a fold together.")
    gpu_option: Annotated[Line, AfterValidator(_with_gpus)] | None = Field(
        None, description="How the cluster wants GPUs requested; {gpus} is their number."
    )
    patients: PositiveInt | None = Field(None, description="Patients that a task of a job array handles.")
    most_tasks: PositiveInt | None = Field(None, description="Tasks of a job array that run at once.")
    setup: str | None = Field(None, description="Shell lines before the program, such as module load.")
    prefix: Line | None = Field(None, description="Command before the program, such as apptainer exec --nv image.sif.")
    options: list[Line] | None = Field(None, description="Further options of sbatch.")

    def over(self, other: "Request") -> "Request":
        """These values, and those of another request where they are not given."""
        return Request(**{**other.model_dump(exclude_none=True), **self.model_dump(exclude_none=True)})


_DEFAULTS = Request(
    time="1-00:00:00", memory="16G", cpus=4, gpus=0, gpu_option="--gpus-per-node={gpus}", patients=25, prefix="",
    setup="", options=[],
)  # fmt: skip
_ON_GPU = Request(gpus=1)
STAGES = ("preprocess", "train", "predict", "evaluate", "test")


class Stages(Section):
    """Requests by stage."""

    preprocess: Request = Request()
    train: Request = Request()
    predict: Request = Request()
    evaluate: Request = Request()
    test: Request = Request()


class SlurmSettings(Section):
    """Settings of a study, or of all studies of a user."""

    executor: Literal["slurm", "local"] = Field(description="slurm, or local: submitted runs stay on this machine.")
    python: Line | None = Field(None, description="Python on the nodes (default: that of mist_ui).")
    jobs: PositiveInt = Field(
        MOST_JOBS, description="Runs with jobs at the same time, in the user's own file; mist_ui reads it as it starts."
    )
    poll_seconds: Annotated[float, Field(ge=10)] = Field(30, description="Seconds between two calls of squeue.")
    warn_seconds: Annotated[int, Field(ge=30)] = Field(
        120, description="Seconds before the time limit in which a job finishes its epoch or patient and leaves."
    )
    resubmissions: NonNegativeInt = Field(
        20, description="How often a job that Slurm ended, and does not requeue by itself, is submitted again."
    )
    all: Request = Field(Request(), description="Request of every stage.")
    stages: Stages = Field(Stages(), description="Request by stage.")

    @model_validator(mode="after")
    def _short(self) -> Self:
        for stage in STAGES:
            limit = self.request(stage).time
            if limit and seconds_of(limit) <= self.warn_seconds:
                raise ValueError(f"stages.{stage}.time must be longer than warn_seconds")
        return self

    def request(self, stage: str) -> Request:
        """The request of a stage."""
        own: Request = getattr(self.stages, stage)
        on_gpu = _ON_GPU if stage in ("train", "predict", "test") else Request()
        return own.over(self.all.over(on_gpu)).over(_DEFAULTS)


def user_file() -> Path:
    """The settings of all studies of a user."""
    configured = os.environ.get("XDG_CONFIG_HOME")
    return (Path(configured) if configured else Path.home() / ".config") / "mist" / NAME


def find(study: Study) -> SlurmSettings | None:
    """The settings that apply to a study, or None if Slurm is off.

    They are those in its results folder, for a replica else those of the original, else those of the user.

    Raises:
        ConfigError: The file is invalid.
    """
    originals = [study.original.results] if study.original else []
    for path in (*(folder / NAME for folder in (study.results, *originals)), user_file()):
        if path.is_file():
            found = read(path)
            return found if found.executor == "slurm" else None
    return None


def most_jobs() -> int:
    """How many runs may have jobs at the same time: as the user's own file says."""
    try:
        return read(user_file()).jobs if user_file().is_file() else MOST_JOBS
    except ConfigError:  # reported where the settings are used
        return MOST_JOBS


def read(path: Path) -> SlurmSettings:
    """Read a settings file.

    Raises:
        ConfigError: It is invalid; all mistakes are listed.
    """
    try:
        # As text: YAML would read 12:00:00 as the number 43200.
        raw = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)  # noqa: S506 - it constructs text alone
        return SlurmSettings.model_validate(_given(raw) or {})
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        problem = listing(mistakes(error, SlurmSettings)) if isinstance(error, ValidationError) else str(error)
        raise ConfigError(f"{path}: {problem}", code="slurm-settings-invalid", file=path) from error


def _given(raw: object) -> object:
    """The values that are given: empty ones are left to the defaults."""
    if not isinstance(raw, dict):
        return raw
    return {key: _given(value) for key, value in raw.items() if value not in ("", "null", "~")}
