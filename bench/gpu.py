"""Compare training and prediction on a GPU with nnU-Net 2.8.1, on the same card in one run.

python bench/gpu.py --nnunet /path/to/nnunet.py --nnunet-site /path/to/its/packages
python bench/gpu.py --device cpu --quick

``nnunet.py`` times nnU-Net and prints a line of JSON per measurement; it runs in processes that see the packages in its
own folder and not ours. Each part runs in a process of its own with a time limit; its measurements are printed as they
arrive, so one that is stopped costs only the remaining ones. nnU-Net goes first, so that each of our rows has a ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PREDICT = [sys.executable, "-c", "from mist_dagster.cli import predict; predict()"]
WIDTHS = (12, 50, 7, 12, 6, 22)


class Part(NamedTuple):
    """A process that prints measurements: its stage, side, seconds at most, command and the packages it sees."""

    stage: str
    side: str
    limit: float
    command: Sequence[str]
    environment: Mapping[str, str] = {}
    loaders: int = 0


class Sizes(NamedTuple):
    """How much is measured."""

    patch: int
    volume: tuple[int, int, int]
    small: tuple[int, int, int]
    steps: int
    workers: tuple[int, ...]
    whole: tuple[int, int, int]
    files: int
    large: tuple[int, int, int]
    classes: int
    small_batches: tuple[tuple[tuple[int, int, int], int], ...]
    model: str = "nnunet"


FULL = Sizes(
    128, (136,) * 3, (42, 58, 42), 40, (1, 8, 12), (240, 240, 155), 10, (512, 512, 531), 118,
    (((40, 56, 40), 9), ((32, 32, 32), 2)),
)  # fmt: skip
QUICK = Sizes(
    32, (40,) * 3, (36,) * 3, 2, (1,), (32, 32, 32), 2, (48, 48, 40), 20, (((32, 32, 32), 2),), "nnunet-pocket"
)  # fmt: skip

GOALS = {
    "first step": "≤ 10 s",
    "step": "≤ 0.6",
    "waiting": "≤ 5 %",
    "compute:True": "≤ 1.0",
    "memory": "≤ 1.0",
    "small": "≤ 0.5",
    "volume": "≤ 0.6",
    "files": "≤ 0.5",
    "large": "≤ windows + 20 %",
    "main memory": "≤ 6 GB",
}


def main() -> None:
    """Run all parts and print their measurements as a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda or cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to test the script")
    parser.add_argument("--nnunet", type=Path, help="nnunet.py, which times nnU-Net")
    parser.add_argument("--nnunet-site", type=Path, help="folder with the packages of nnU-Net")
    parser.add_argument("--seconds", type=float, default=465, help="time limit of the whole")
    parser.add_argument("--stages", nargs="+", help="only these stages; 'data' always runs")
    parser.add_argument("--large", type=int, nargs=3, help="voxels of the scan with many classes")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        verb, settings = options.child
        CHILDREN[verb](**json.loads(settings))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the running part is stopped too
    sizes = QUICK if options.quick else FULL
    if options.large:
        sizes = sizes._replace(large=tuple(options.large))
    with tempfile.TemporaryDirectory() as folder:
        table = _Report(time.monotonic() + options.seconds, Path(folder))
        reason = _reason_without_nnunet(options)
        if reason:
            table.row("nnU-Net", "skipped", "nnU-Net", reason)
        for part in _parts(options, sizes, Path(folder)):
            requested = not options.stages or part.stage in ("data", *options.stages)
            if requested and not (reason and part.side == "nnU-Net"):
                table.run(part)


def _reason_without_nnunet(options: argparse.Namespace) -> str:
    for flag, path in (("--nnunet", options.nnunet), ("--nnunet-site", options.nnunet_site)):
        if path is None:
            return f"{flag} not given"
        if not path.exists():
            return f"{path} missing"
    return ""


def _parts(options: argparse.Namespace, sizes: Sizes, work: Path) -> Iterator[Part]:
    device, big, small = options.device, str(work / "big"), str(work / "small")
    loaders = sorted({sizes.workers[-1], max(1, sizes.workers[-1] // 3)}, reverse=True)

    def ours(stage: str, limit: float, verb: str, **settings: object) -> Part:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        settings = {"device": device, **settings}
        command = [sys.executable, str(Path(__file__).resolve()), "--child", verb, json.dumps(settings)]
        return Part(stage, "ours", limit, command, environment)

    def theirs(stage: str, limit: float, *arguments: object, loaders: int = 0) -> Part:
        command = [sys.executable, str(options.nnunet), *map(str, arguments), "--device", device]
        return Part(stage, "nnU-Net", limit, command, _their_environment(options), loaders)

    def train(stage: str, limit: float, study: str, patch: int, batch: int, workers: int, *compiled: str) -> Part:
        data = [work / f"{Path(study).name}-{workers}", f"{study}/data/dataset.json", "--patch", patch]
        rest = ["--batch", batch, "--loaders", workers, "--steps", sizes.steps, "--epochs", 2, "--compile", *compiled]
        return theirs(stage, limit, "train", *data, *rest, loaders=workers)

    yield ours("machine", 20, "machine")
    patch, cube = sizes.patch, [sizes.patch] * 3
    yield ours("data", 75, "data", work=str(work), sizes=sizes._asdict())
    for workers in sizes.workers:
        yield ours("first step", 40, "first_step", study=big, patch=cube, batch=2, workers=workers)
    yield train("step", 100, big, patch, 2, loaders[0], "f", "t")
    for compiled in (False, True):
        yield ours("computing", 60, "compute", study=big, patch=cube, batch=2, steps=sizes.steps, compiled=compiled)
    for workers in loaders:
        if workers != loaders[0]:
            yield train("step", 60, big, patch, 2, workers, "t")
        for cache in ("auto", "none"):
            run = {"workers": workers, "cache": cache, "steps": sizes.steps, "compiled": cache == "auto"}
            yield ours("step", 45, "step", study=big, patch=cube, batch=2, **run)
    yield train("small", 50, small, 32, 2, loaders[0], "t")
    for size, batch in sizes.small_batches:
        run = {"patch": size, "batch": batch, "workers": loaders[0], "cache": "auto", "steps": sizes.steps * 2}
        yield ours("small", 30, "step", study=small, what="small", compiled=True, **run)
    shape = "x".join(map(str, sizes.whole))
    yield theirs("volume", 30, "predict", shape, "--channels", 2, "--classes", 4, "--patch", patch)
    yield ours("volume", 40, "volume", size=sizes.whole, patch=patch, model=sizes.model)
    run = {"work": str(work / f"big-{loaders[0]}"), "inputs": str(work / "files"), "site": str(options.nnunet_site)}
    yield ours("files", 75, "their_files", **run)._replace(environment=_their_environment(options), side="nnU-Net")
    yield ours("files", 75, "files", study=big, work=str(work))
    yield ours("large", 120, "large", size=sizes.large, classes=sizes.classes, patch=patch, model=sizes.model)


def _their_environment(options: argparse.Namespace) -> Mapping[str, str]:
    if options.nnunet is None or options.nnunet_site is None:
        return {}
    paths = (options.nnunet.resolve().parent / "stubs", options.nnunet_site.resolve())
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}


class _Report:
    """The table on standard output, a line at a time."""

    def __init__(self, deadline: float, work: Path) -> None:
        self._deadline, self._log = deadline, work / "log"
        self._theirs: dict[str, float] = {}
        self.row("stage", "measurement", "side", "value", "ratio", "goal")
        self.row(*("-" * width for width in WIDTHS))

    def row(self, *cells: str) -> None:
        """Print a row of the table at once."""
        padded = [cell.ljust(width) for cell, width in zip((*cells, "", "", "")[:6], WIDTHS, strict=True)]
        sys.stdout.write(f"| {' | '.join(padded)} |\n")
        sys.stdout.flush()

    def run(self, part: Part) -> None:
        """Run a part within its limit, and print its measurements as they arrive."""
        limit = min(part.limit, self._deadline - time.monotonic())
        if limit < 5:
            self.row(part.stage, "skipped", part.side, "no time left")
            return
        started, late = time.monotonic(), threading.Event()
        with self._log.open("w") as log:
            process = subprocess.Popen(
                part.command,
                env=dict(part.environment),
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )

            def stop() -> None:
                late.set()
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

            timer = threading.Timer(limit, stop)
            timer.start()
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    if line.startswith("{"):
                        self._measured(part, json.loads(line))
                code = process.wait()
            finally:
                timer.cancel()
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        took = f"{time.monotonic() - started:.0f} s"
        if late.is_set():
            self.row(part.stage, f"stopped at its limit of {limit:.0f} s", part.side, took)
        elif code:
            lines = self._log.read_text(errors="replace").strip().splitlines() or [f"exit status {code}"]
            self.row(part.stage, f"failed: {lines[-1][:200]}", part.side, took)
            sys.stderr.write("\n".join(lines[-30:]) + "\n")
        else:
            self.row(part.stage, "wall time of this part", part.side, took)

    def _measured(self, part: Part, line: Mapping[str, Any]) -> None:
        for key, what, value, unit in _from_nnunet(part, line) if "key" not in line else [_from_ours(line)]:
            goal, ratio = "", ""
            if part.side == "nnU-Net":
                self._theirs[key] = value
            else:
                ratio = f"{value / self._theirs[key]:.2f}" if self._theirs.get(key) else ""
                goal = GOALS.get(key) or GOALS.get(key.split(":")[0], "")
            self.row(part.stage, what, part.side, f"{value:.4g} {unit}" if unit else line["text"], ratio, goal)


def _from_ours(line: Mapping[str, Any]) -> tuple[str, str, float, str]:
    return line["key"], line["what"], line["value"], line["unit"]


def _from_nnunet(part: Part, line: Mapping[str, Any]) -> Iterator[tuple[str, str, float, str]]:
    """Measurements in a line of nnunet.py; those of a later epoch or of compiled code replace earlier ones."""
    if "s_per_step" not in line:
        key = part.stage if part.stage == "volume" else "other"
        yield key, line["what"], line["seconds"], "s"
        return
    compiled, seconds, waiting = line["compile"] == "t", line["s_per_step"], line["waiting"]
    how = f"epoch {line['epoch'] + 1}, {'compiled' if compiled else 'eager'}, {part.loaders} loaders"
    if part.stage == "small":
        yield "small:32x32x32", f"step 32³, batch 2, {how}", seconds, "s"
        return
    yield f"step:{part.loaders}", f"step all in, {how}", seconds, "s"
    yield f"waiting:{part.loaders}", f"waiting, {how}", 100 * waiting, "%"
    yield f"compute:{compiled}", f"computing, {how}", seconds * (1 - waiting), "s"
    yield f"memory:{compiled}", f"peak device memory, {how}", line["gib"], "GiB"


def _show(key: str, what: str, value: float, unit: str, text: str = "") -> None:
    sys.stdout.write(json.dumps({"key": key, "what": what, "value": value, "unit": unit, "text": text}) + "\n")
    sys.stdout.flush()


def _machine(device: str) -> None:
    import torch

    def say(what: str, text: object) -> None:
        _show("machine", what, 0, "", str(text))

    say("date", time.strftime("%Y-%m-%d"))
    say("cores", len(os.sched_getaffinity(0)))
    say("Python, torch, CUDA", f"{sys.version.split()[0]}, {torch.__version__}, {torch.version.cuda}")
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    smi = subprocess.run(query, capture_output=True, text=True, check=False) if shutil.which(query[0]) else None
    say("card, driver, memory", smi.stdout.strip() if smi else f"no nvidia-smi; device {device}")
    command = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False)
    say("mist-dagster", commit.stdout.strip() or "no git")


def _data(device: str, work: str, sizes: dict[str, Any]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from mist_ops.analysis.analyze import analyze
    from mist_ops.boxes import read_boxes
    from mist_ops.config import override, read_config, write_config
    from mist_ops.dataset import read_train_paths
    from mist_ops.phantoms import write_phantoms
    from mist_ops.preprocessing.case import write_case

    began = time.perf_counter()
    for name, size, patch in (("big", sizes["volume"], sizes["patch"]), ("small", sizes["small"], 32)):
        study = _study(f"{work}/{name}")
        data = write_phantoms(study.numpy.parent / "data", patients=3, size=tuple(size), varied=False)
        originals = sorted((data.parent / "train").iterdir())
        for number, original in enumerate(originals, start=len(originals) + 1):
            shutil.copytree(original, original.with_name(f"phantom_{number:03}"))
        list(analyze(study, overrides={"training.nfolds": 5, "training.folds": [0]}))
        # nnU-Net has five folds and needs as many cases.
        settings = {"model.architecture": sizes["model"], "spatial_config.patch_size": [patch] * 3}
        config = override(read_config(study.config), settings)
        write_config(study.config, config)
        boxes = read_boxes(study)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            cases = read_train_paths(study.train_paths).cases
            list(pool.map(lambda case: write_case(study, case, config, boxes.get(case.id)), cases))  # noqa: B023
    _write_inputs(Path(work) / "files", tuple(sizes["whole"]), sizes["files"])
    _show("data", "phantoms, analysis, preprocessing", time.perf_counter() - began, "s")


def _write_inputs(folder: Path, size: tuple[int, int, int], cases: int) -> None:
    """Write one phantom and link it under several names, laid out for both sides."""
    from mist_ops.phantoms import write_phantoms

    data = write_phantoms(folder / "data", patients=1, size=size, varied=False)
    marks = json.loads(data.read_text())["images"]
    (original,) = (data.parent / "train").iterdir()
    channels = [next(file for file in original.iterdir() if any(m in file.name for m in ms)) for ms in marks.values()]
    (folder / "inputs").mkdir()
    with (folder / "paths.csv").open("w", newline="") as table:
        rows = csv.writer(table)
        rows.writerow(["id", *marks])
        for number in range(cases):
            paths = [folder / "inputs" / f"case{number}_{index:04}.nii.gz" for index in range(len(channels))]
            for channel, path in zip(channels, paths, strict=True):
                os.link(channel, path)
            rows.writerow([f"case{number}", *paths])


def _study(folder: str) -> Any:
    from mist_ops.study import Study

    root = Path(folder)
    return Study("bench", numpy=root / "numpy", results=root / "results", data=root / "data" / "dataset.json")


def _plan(study: str, patch: Sequence[int], batch: int, workers: int, **settings: object) -> Any:
    from mist_ops.analysis.folds import make_fold
    from mist_ops.config import override, read_config
    from mist_ops.dataset import read_train_paths
    from mist_ops.training.plan import Plan

    place = _study(study)
    fixed = {
        "spatial_config.patch_size": list(patch),
        "training.batch_size_per_gpu": batch,
        "training.warmup_epochs": 0,
    }
    config = override(read_config(place.config), {**fixed, **settings})
    return Plan(place, config, make_fold(read_train_paths(place.train_paths), 0, 0.0, 42), workers=workers)


def _synchronize(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def _gib(device: str) -> float:
    import torch

    return torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else math.nan


def _trained(plan: Any, device: str, synchronized: Sequence[int]) -> tuple[list[float], list[float], float, list[Any]]:
    """Train; seconds after the start of the given steps, peak memory at each, of the start, and the epochs."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from mist_ops.training.fold import train_fold

    times, memory, count = [], [], 0

    def stamp(*_: object) -> None:
        nonlocal count
        count += 1
        if count in synchronized:
            _synchronize(device)
            times.append(time.perf_counter())
            memory.append(_gib(device))

    hook = register_optimizer_step_post_hook(stamp)
    started = time.perf_counter()
    epochs = list(train_fold(plan.study, plan.config, plan.fold, device=device, workers=plan.workers))
    hook.remove()
    return times, memory, started, epochs


def _first_step(device: str, study: str, patch: Sequence[int], batch: int, workers: int) -> None:
    settings = {"training.epochs": 1, "training.min_steps_per_epoch": 1, "training.hardware.cache": "none"}
    plan = _plan(study, patch, batch, workers, **settings)
    times, _, started, _ = _trained(plan, device, [1])
    _show("first step", f"start of training to first step, {workers} workers", times[0] - started, "s")


def _step(
    device: str,
    study: str,
    patch: Sequence[int],
    batch: int,
    workers: int,
    cache: str,
    steps: int,
    compiled: bool,
    what: str = "step",
) -> None:
    """Time the steps of the second epoch, from the end of its first step to the end of its last."""
    hardware = {"training.hardware.cache": cache, "training.hardware.compile": compiled and device == "cuda"}
    # An epoch uses each training case at least once.
    steps = max(steps, 4)
    settings = {"training.epochs": 2, "training.min_steps_per_epoch": steps, **hardware}
    if device == "cpu" and cache == "auto":
        settings["training.hardware.cache"] = "ram"
    plan = _plan(study, patch, batch, workers, **settings)
    times, memory, started, epochs = _trained(plan, device, [1, steps, steps + 1, 2 * steps])
    seconds, size = (times[3] - times[2]) / (steps - 1), "x".join(map(str, patch))
    how = f"{size}, batch {batch}, {workers} loaders, cache {settings['training.hardware.cache']}"
    how += ", compiled" if settings["training.hardware.compile"] else ""
    _show(f"small:{size}" if what == "small" else f"step:{workers}", f"step {how}", seconds, "s")
    _show("waiting" if what == "small" else f"waiting:{workers}", f"waiting, {how}", 100 * epochs[1].waiting, "%")
    _show("first", f"first step, {how}", times[0] - started, "s")
    if device == "cuda":
        _show("peak", f"peak device memory with arrays, {how}", memory[1], "GiB")


def _compute(device: str, study: str, patch: Sequence[int], batch: int, steps: int, compiled: bool) -> None:
    """Time forward pass, loss, backward pass and optimizer on one batch that is on the device, without augmentation."""
    import torch

    from mist_ops.training.cases import index_fold
    from mist_ops.training.computing import choose
    from mist_ops.training.distributed import Ranks
    from mist_ops.training.loop import training_step
    from mist_ops.training.setup import fresh_state, make_batches
    from mist_ops.training.step import batch_loss

    place, how = torch.device(device), "compiled" if compiled else "eager"
    if compiled and device == "cpu":
        _show("machine", f"computing part, {how}", 0, "", "only on a GPU")
        return
    settings = {"training.hardware.compile": compiled, "training.augmentation.enabled": False}
    plan = _plan(study, patch, batch, 0, **settings)
    training, _ = index_fold(plan.study, plan.config, plan.fold)
    state = fresh_state(plan.config, plan.fold, place, Ranks())
    patches = next(make_batches(plan, training, 0, place, Ranks())).to(place)
    started = time.perf_counter()
    loss = batch_loss(plan.config, state.model, place, Ranks(), steps, choose(plan.config, place))
    for _ in range(3):
        training_step(state, patches, loss, None, 1.0)
    _synchronize(device)
    _show("compile", f"first three steps, {how}", time.perf_counter() - started, "s")
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    for _ in range(steps):
        training_step(state, patches, loss, None, 1.0)
    _synchronize(device)
    _show(f"compute:{compiled}", f"computing part, {how}", (time.perf_counter() - started) / steps, "s")
    peak = _gib(device)
    if device == "cuda":
        _show(f"memory:{compiled}", f"peak device memory, {how}", peak, "GiB")
    else:
        _show("machine", f"peak device memory, {how}", 0, "", "only on a GPU")


def _config(size: Sequence[int], classes: int, channels: int, patch: int, modality: str) -> Any:
    from mist_ops.config import StudyConfig

    ct = {"window_min": -500.0, "window_max": 500.0, "z_score_mean": 0.0, "z_score_std": 300.0}
    images = [f"channel{index}" for index in range(channels)]
    return StudyConfig.model_validate(
        {
            "mist_version": "bench",
            "dataset_info": {"task": "gpu", "modality": modality, "images": images, "labels": list(range(classes))},
            "spatial_config": {"patch_size": [patch] * 3, "target_spacing": [1.0] * 3},
            "preprocessing": {
                "median_resampled_image_size": list(size),
                **({"ct_normalization": ct} if modality == "ct" else {}),
            },
            "model": {"params": {"in_channels": channels, "out_channels": classes}},
            "training": {},
            "inference": {"tta": {"strategy": "none" if modality == "ct" else "all_flips"}},
            "evaluation": {},
        }
    )


def _network(config: Any, model: str) -> Any:
    from mist_ops.registry import MODELS

    grid, params = config.spatial_config, config.model.params.model_dump()
    return MODELS[model].build(patch_size=grid.patch_size, target_spacing=grid.target_spacing, **params).eval()


def _volume(device: str, size: Sequence[int], patch: int, model: str) -> None:
    import torch

    from mist_ops.inference.sliding_window import predict_tiles

    config, place = _config(size, 4, 2, patch, "mr"), torch.device(device)
    network, image = _network(config, model), torch.randn(1, 2, *size)
    for attempt in range(3):
        started = time.perf_counter()
        for _ in predict_tiles([network], image, config, place):
            pass
        _synchronize(device)
        seconds, shape = time.perf_counter() - started, "x".join(map(str, size))
        _show("volume", f"{shape}, 4 classes, 8 flips, attempt {attempt + 1}", seconds, "s")


def _files(device: str, study: str, work: str) -> None:
    place, inputs = _study(study), Path(work) / "files"
    arguments = ["--models-dir", str(place.models), "--config", str(place.config), "--device", device]
    paths = ["--paths-csv", str(inputs / "paths.csv"), "--output", str(inputs / "ours")]
    started = time.perf_counter()
    subprocess.run([*PREDICT, *arguments, *paths], check=True, stdout=sys.stderr)
    found = len(list((inputs / "ours").rglob("*.nii.gz")))
    _show("files", f"mist_predict, {found} volumes", time.perf_counter() - started, "s")


UNTRAINED = """
import json, pydoc, sys, torch
plans, dataset = (json.load(open(path)) for path in sys.argv[1:3])
parts = plans["configurations"]["3d_fullres"]["architecture"]
kwargs = dict(parts["arch_kwargs"])
for name in parts["_kw_requires_import"]:
    kwargs[name] = kwargs[name] and pydoc.locate(kwargs[name])
build = pydoc.locate(parts["network_class_name"])
network = build(len(dataset["channel_names"]), num_classes=len(dataset["labels"]), deep_supervision=True, **kwargs)
torch.save({"network_weights": network.state_dict(), "init_args": {"configuration": "3d_fullres"},
    "trainer_name": "nnUNetTrainer", "inference_allowed_mirroring_axes": (0, 1, 2)}, sys.argv[3])
"""
"""Writes a checkpoint with random weights, since nnunet.py writes none."""


def _their_files(device: str, work: str, inputs: str, site: str) -> None:
    """Time nnUNetv2_predict with random weights of the network that nnU-Net plans for our phantoms."""
    folders = {f"nnUNet_{name}": f"{work}/{name}" for name in ("raw", "preprocessed", "results")}
    model = Path(work) / "results" / "Dataset500_Bench" / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    (model / "fold_0").mkdir(parents=True, exist_ok=True)
    plans = Path(work) / "preprocessed" / "Dataset500_Bench" / "nnUNetPlans.json"
    dataset = Path(work) / "raw" / "Dataset500_Bench" / "dataset.json"
    shutil.copy(plans, model / "plans.json")
    shutil.copy(dataset, model / "dataset.json")
    weights = model / "fold_0" / "checkpoint_final.pth"
    command = [sys.executable, "-c", UNTRAINED, str(plans), str(dataset), str(weights)]
    subprocess.run(command, check=True, stdout=sys.stderr)
    output, program = f"{inputs}/theirs", f"{site}/bin/nnUNetv2_predict"
    flags = ["-d", "500", "-c", "3d_fullres", "-f", "0", "-device", device, "-i", f"{inputs}/inputs", "-o", output]
    started = time.perf_counter()
    subprocess.run([sys.executable, program, *flags], check=True, stdout=sys.stderr, env={**os.environ, **folders})
    found = len(list(Path(output).glob("*.nii.gz")))
    _show("files", f"nnUNetv2_predict, {found} volumes", time.perf_counter() - started, "s")


def _large(device: str, size: Sequence[int], classes: int, patch: int, model: str) -> None:
    """Predict a CT from file to mask, and time its windows alone."""
    import resource

    import nibabel as nib
    import numpy as np
    import torch

    from mist_ops.dataset import Case
    from mist_ops.devices import autocast
    from mist_ops.inference.case import Predictor, predict_case

    config, place = _config(size, classes, 1, patch, "ct"), torch.device(device)
    network, shape = _network(config, model), "x".join(map(str, size))
    step = patch * (1 - config.inference.inferer.params.patch_overlap)
    windows = math.prod(math.ceil(max(voxels - patch, 0) / step) + 1 for voxels in size)
    network.to(place)
    repeats = min(windows, 10)
    with torch.inference_mode(), autocast(place, True):
        window = torch.randn(1, 1, *[patch] * 3, device=place)
        network(window)
        _synchronize(device)
        started = time.perf_counter()
        for _ in range(repeats):
            network(window)
        _synchronize(device)
    alone = (time.perf_counter() - started) / repeats * windows
    _show("windows", f"{windows} windows of {patch}³ in the network alone", alone, "s")
    with tempfile.TemporaryDirectory() as folder:
        scan = Path(folder) / "ct.nii"
        values = np.random.default_rng(0).integers(-1000, 1000, size, dtype=np.int16)
        nib.save(nib.Nifti1Image(values, np.eye(4)), scan)
        del values
        started = time.perf_counter()
        predict_case(Predictor([network], config, place), Case("ct", {"channel0": scan}), Path(folder) / "mask.nii.gz")
        seconds = time.perf_counter() - started
    _show("large", f"{shape}, {classes} classes, file to mask", seconds, "s")
    _show("over", "the same, over the windows alone", 100 * (seconds / alone - 1), "%")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    _show("main memory", "peak main memory of the process", peak, "GB")


CHILDREN = {
    "machine": _machine,
    "data": _data,
    "first_step": _first_step,
    "step": _step,
    "compute": _compute,
    "volume": _volume,
    "files": _files,
    "their_files": _their_files,
    "large": _large,
}

if __name__ == "__main__":
    main()
