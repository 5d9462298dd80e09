from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from expect import refuses
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training.small_study import FOLD, small_config, small_study, write_case

from mist_ops.config import StudyConfig, override, write_config
from mist_ops.dataset import Fold
from mist_ops.errors import CaseError, ConfigError, DatasetError, DivergedError, MachineError
from mist_ops.files import file_hash, write_array
from mist_ops.losses import Loss
from mist_ops.records.epochs import read_epochs
from mist_ops.records.passport import Epoch, read_passport
from mist_ops.registry import LOSSES, MODELS
from mist_ops.steps import digest
from mist_ops.study import Study
from mist_ops.training.attempts import discard, epochs_to_resume
from mist_ops.training.fold import train_fold
from mist_ops.training.pretrained import Pretrained, present_model


def trained(study: Study, config: StudyConfig | None = None, **options: Any) -> list[Epoch]:
    return list(train_fold(study, config or small_config(), FOLD, device="cpu", **options))


def weights(study: Study, checkpoint: bool = True) -> dict[str, torch.Tensor]:
    path = study.checkpoint(0) if checkpoint else study.model(0)
    content = torch.load(path, weights_only=True)
    return content["model"] if checkpoint else content


def assert_same_result(one: Study, other: Study) -> None:
    first, second = weights(one), weights(other)
    assert all(first[name].equal(second[name]) for name in first)
    assert one.model(0).read_bytes() == other.model(0).read_bytes()


@pytest.fixture
def uninterrupted(tmp_path: Path) -> Study:
    study = small_study(tmp_path / "uninterrupted")
    trained(study)
    return study


def test_two_runs_with_the_same_seed_end_with_the_same_weights(study: Study, uninterrupted: Study) -> None:
    trained(study)
    assert_same_result(study, uninterrupted)


def test_another_seed_ends_with_other_weights(study: Study, uninterrupted: Study) -> None:
    trained(study, small_config(seed=7))
    assert study.model(0).read_bytes() != uninterrupted.model(0).read_bytes()


def test_the_number_of_workers_does_not_matter(study: Study, uninterrupted: Study) -> None:
    trained(study, workers=1)
    assert_same_result(study, uninterrupted)


def test_a_run_stopped_after_an_epoch_and_resumed_ends_the_same(study: Study, uninterrupted: Study) -> None:
    assert next(train_fold(study, small_config(), FOLD, device="cpu")).index == 0
    assert [epoch.index for epoch in trained(study, resume=True)] == [1, 2]
    assert_same_result(study, uninterrupted)


def test_a_run_that_fails_within_an_epoch_and_is_resumed_ends_the_same(study: Study, uninterrupted: Study) -> None:
    run = train_fold(study, small_config(), FOLD, device="cpu")
    next(run)
    study.label("a").rename(study.numpy / "away.npy")
    with pytest.raises(FileNotFoundError):
        list(run)
    (study.numpy / "away.npy").rename(study.label("a"))
    trained(study, resume=True)
    assert_same_result(study, uninterrupted)


KILLED = """
import torch
from pathlib import Path
from training.small_study import FOLD, add_tiny, small_config, small_study
from mist_ops.training.fold import train_fold
torch.set_num_threads(1)
add_tiny()
for epoch in train_fold(small_study(Path({folder!r})), small_config(min_steps_per_epoch=30), FOLD, device="cpu"):
    print(epoch.index, flush=True)
"""


def test_a_run_killed_within_an_epoch_and_resumed_ends_the_same(study: Study, tmp_path: Path) -> None:
    config, folder = small_config(min_steps_per_epoch=30), tmp_path / "killed"
    code = KILLED.format(folder=str(folder))
    search = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    prelude = f"import sys; sys.path[:0] = {search!r}"
    with subprocess.Popen([sys.executable, "-c", f"{prelude}\n{code}"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"0\n"
        time.sleep(0.05)
        process.kill()
    killed = Study("boxes", folder / "numpy", folder / "results")
    assert not killed.passport(0).exists()
    assert [epoch.index for epoch in trained(killed, config, resume=True)][-1] == 2
    trained(study, config)
    assert_same_result(killed, study)


def test_weights_older_than_the_checkpoint_are_rewritten_from_it(study: Study, uninterrupted: Study) -> None:
    trained(study)
    study.model(0).write_bytes(b"as if killed between the two files")
    assert trained(study, resume=True) == []
    assert_same_result(study, uninterrupted)
    assert study.passport(0).is_file()


def test_a_run_resumed_for_more_epochs_follows_the_longer_schedule(study: Study, tmp_path: Path) -> None:
    trained(study)
    longer = small_config(epochs=5, learning_rate=0.02)
    rates = [epoch.learning_rate for epoch in trained(study, longer, resume=True)]
    whole = [epoch.learning_rate for epoch in trained(small_study(tmp_path / "other"), longer)]
    assert rates == whole[3:]
    assert read_passport(study.model(0)).changes[0] == "from epoch 4: training.epochs was 3 and is now 5"


@pytest.mark.parametrize(
    "change, words",
    [
        (
            {"model.architecture": "nnunet-pocket", "spatial_config.patch_size": [32, 32, 32]},
            "was tiny and is now nnunet",
        ),
        ({"spatial_config.patch_size": [4, 8, 8]}, "patch_size was [8, 8, 8] and is now [4, 8, 8]"),
        ({"training.loss.name": "dice"}, "training.loss.name was dice_ce and is now dice"),
        ({"training.seed": 1}, "training.seed was 42 and is now 1"),
    ],
)
def test_resuming_with_other_settings_is_refused(study: Study, change: dict[str, Any], words: str) -> None:
    trained(study, small_config(epochs=1))
    before = study.model(0).read_bytes()
    with refuses("resume-mismatch", ConfigError, names=words, file=study.checkpoint(0)):
        trained(study, override(small_config(), change), resume=True)
    assert study.model(0).read_bytes() == before


def test_resuming_with_other_arrays_is_refused(study: Study) -> None:
    trained(study, small_config(epochs=1))
    write_case(study, "b", seed=99)
    with refuses("resume-mismatch", ConfigError, field="cases.training.b"):
        trained(study, resume=True)


def test_resuming_without_a_checkpoint_starts_from_scratch(study: Study, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="mist_ops")
    assert len(trained(study, small_config(epochs=1), resume=True)) == 1
    assert "starts from scratch" in caplog.text


def files_of(study: Study) -> dict[Path, bytes]:
    """The model of a fold with all that belongs to it."""
    events = [path for path in study.logs(0).rglob("*") if path.is_file()]
    return {path: path.read_bytes() for path in (study.model(0), study.passport(0), study.checkpoint(0), *events)}


def test_a_run_from_scratch_that_is_stopped_leaves_the_earlier_model(study: Study) -> None:
    trained(study)
    before = files_of(study)
    next(train_fold(study, small_config(seed=1), FOLD, device="cpu"))
    assert files_of(study) == before
    assert torch.load(study.attempt(0), weights_only=True)["epoch"] == 1


def test_the_epochs_that_an_unfinished_run_need_not_repeat_are_known_without_its_checkpoint(study: Study) -> None:
    config = small_config(seed=1)
    assert epochs_to_resume(study, config, FOLD) == 0
    run = train_fold(study, config, FOLD, device="cpu")
    for _ in range(2):
        next(run)
    run.close()
    study.attempt(0).write_bytes(b"read by no estimate")
    assert epochs_to_resume(study, config, FOLD) == 2
    assert epochs_to_resume(study, override(config, {"training.epochs": 9}), FOLD) == 2
    assert epochs_to_resume(study, small_config(seed=2), FOLD) == 0
    image = study.image(FOLD.training[0])
    content = np.load(image)
    write_array(image, content + 1)
    assert epochs_to_resume(study, config, FOLD) == 0
    write_array(image, content)
    assert epochs_to_resume(study, config, FOLD) == 2
    discard(study, 0)
    assert not study.attempt_progress(0).exists()
    trained(study, config)
    assert not study.attempt_progress(0).exists()


def test_a_run_that_diverges_leaves_the_earlier_model(study: Study) -> None:
    trained(study)
    before = files_of(study)
    run = train_fold(study, small_config(seed=1), FOLD, device="cpu")
    next(run)
    for case_id in FOLD.training:
        write_array(study.image(case_id), np.full((12, 10, 11, 1), 3e38, np.float32))
    with refuses("loss-not-finite", DivergedError):
        list(run)
    assert files_of(study) == before


def test_an_unfinished_run_replaces_the_earlier_model_once_it_is_resumed_and_done(study: Study) -> None:
    trained(study)
    before = files_of(study)
    next(train_fold(study, small_config(seed=1), FOLD, device="cpu"))
    trained(study, small_config(seed=1), resume=True)
    assert files_of(study) != before
    assert not study.attempt(0).exists()
    assert not study.attempt_logs(0).exists()
    passport = read_passport(study.model(0))
    assert (passport.seed, passport.weights) == (1, file_hash(study.model(0)))


def test_the_epochs_of_a_run_can_be_read_while_it_trains_and_those_it_replaces_are_kept(study: Study) -> None:
    trained(study)
    before = read_passport(study.model(0)).history
    run = train_fold(study, small_config(seed=1), FOLD, device="cpu")
    seen = [next(run), next(run)]
    assert list(read_epochs(study.attempt_epochs(0))) == seen
    run.close()
    trained(study, small_config(seed=1), resume=True)
    assert read_epochs(study.previous_epochs(0)) == before
    assert not study.attempt_epochs(0).exists()
    # A training that is continued is not one that was replaced.
    trained(study, small_config(seed=1), resume=True)
    assert read_epochs(study.previous_epochs(0)) == ()


def test_a_run_killed_while_it_replaces_the_model_is_completed_by_resuming(study: Study) -> None:
    trained(study)
    passport = study.passport(0).read_bytes()
    run = train_fold(study, small_config(seed=1), FOLD, device="cpu")
    epochs = [next(run) for _ in range(3)]
    run.close()
    assert len(epochs) == 3
    study.model(0).write_bytes(b"new weights beside the old passport")
    assert study.passport(0).read_bytes() == passport
    trained(study, small_config(seed=1), resume=True)
    assert read_passport(study.model(0)).weights == file_hash(study.model(0))


def test_a_discarded_run_leaves_the_earlier_model(study: Study) -> None:
    trained(study)
    before = files_of(study)
    next(train_fold(study, small_config(seed=1), FOLD, device="cpu"))
    assert discard(study, 0)
    assert not discard(study, 0)
    assert files_of(study) == before
    assert not study.attempt(0).exists()


def test_a_loss_that_is_not_finite_keeps_the_files_of_the_last_epoch(study: Study) -> None:
    run = train_fold(study, small_config(), FOLD, device="cpu")
    next(run)
    before = study.attempt(0).read_bytes()
    for case_id in FOLD.training:
        write_array(study.image(case_id), np.full((12, 10, 11, 1), 3e38, np.float32))
    with refuses("loss-not-finite", DivergedError, names="Fold 0, epoch 2, step 4"):
        list(run)
    assert study.attempt(0).read_bytes() == before
    assert not study.model(0).exists()


def test_voxels_that_are_not_finite_are_refused_with_and_without_workers(study: Study) -> None:
    for case_id in FOLD.training:
        write_array(study.image(case_id), np.full((12, 10, 11, 1), np.nan, np.float32))
    for workers in (0, 1):
        with refuses("array-not-finite", CaseError):
            list(train_fold(study, small_config(), FOLD, device="cpu", workers=workers))
    assert not study.checkpoint(0).exists()


def test_resuming_a_model_without_its_checkpoint_is_refused(study: Study) -> None:
    trained(study)
    before = study.model(0).read_bytes()
    study.checkpoint(0).unlink()
    with refuses("checkpoint-missing", ConfigError, file=study.checkpoint(0)):
        trained(study, resume=True)
    assert study.model(0).read_bytes() == before


def test_the_curves_hold_each_epoch_once(study: Study) -> None:
    epochs = [next(train_fold(study, small_config(), FOLD, device="cpu")), *trained(study, resume=True)]
    events = EventAccumulator(str(study.logs(0)))
    events.Reload()
    drawn = [(event.step, event.value) for event in events.Scalars("learning_rate")]
    assert drawn == [(epoch.index + 1, pytest.approx(epoch.learning_rate)) for epoch in epochs]
    assert [event.step for event in events.Scalars("validation_loss")] == [1, 2, 3]


def test_the_passport_has_patients_settings_and_history(study: Study) -> None:
    epochs = trained(study)
    passport = read_passport(study.model(0))
    assert (passport.training, passport.held_out) == (("a", "b", "c"), ("d",))
    assert passport.settings == digest(small_config(), "training")
    assert passport.config["training"]["epochs"] == 3
    assert passport.history == tuple(epochs)
    assert passport.best == min(epochs, key=lambda epoch: epoch.validation_loss)


def test_epochs_without_validation_leave_the_best_weights(study: Study, uninterrupted: Study) -> None:
    epochs = trained(study, small_config(validation_every=2))
    whole = read_passport(uninterrupted.model(0)).history
    assert [epoch.training_loss for epoch in epochs] == [epoch.training_loss for epoch in whole]
    assert [epoch.validation_loss for epoch in epochs] == [whole[0].validation_loss, None, whole[2].validation_loss]
    passport = read_passport(study.model(0))
    assert passport.best_loss == min(loss for epoch in epochs if (loss := epoch.validation_loss) is not None)
    assert [epoch.summary.count(", val ") for epoch in epochs] == [1, 0, 1]


def test_a_resumed_run_may_validate_less_often(study: Study) -> None:
    next(train_fold(study, small_config(), FOLD, device="cpu"))
    epochs = trained(study, small_config(validation_every=5, epochs=4), resume=True)
    assert [epoch.validation_loss is None for epoch in epochs] == [True, True, False]


def test_training_lowers_the_validation_loss(study: Study) -> None:
    epochs = trained(study, small_config(epochs=6, min_steps_per_epoch=8, learning_rate=0.05))
    assert epochs[-1].validation_loss < 0.7 * epochs[0].validation_loss


def test_missing_arrays_are_reported_before_files_are_removed(study: Study) -> None:
    trained(study, small_config(epochs=1))
    study.image("c").unlink()
    with refuses("arrays-missing", DatasetError, file=study.image("c")):
        trained(study)
    assert study.model(0).is_file()


def test_a_loss_that_needs_distance_maps_requires_them(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES._load(), "distant", Loss(LOSSES["dice"].function, needs={"dtm"}))
    config = small_config(loss={"name": "distant"}, epochs=1)
    with refuses("arrays-missing", DatasetError, names="--compute-dtms", file=study.dtm("a")):
        trained(study, config)
    for case_id in "abcd":
        write_array(study.dtm(case_id), np.zeros((12, 10, 11, 3), np.float32))
    assert len(trained(study, config)) == 1


@pytest.mark.parametrize(
    "fold, code",
    [(replace(FOLD, training=()), "fold-too-small"), (replace(FOLD, validation=("a",)), "fold-overlap")],
)
def test_a_fold_that_cannot_be_trained_is_refused(study: Study, fold: Fold, code: str) -> None:
    with refuses(code, DatasetError):
        next(train_fold(study, small_config(), fold, device="cpu"))


def test_an_unknown_augmentation_or_schedule_is_refused_before_training(study: Study) -> None:
    changes = {
        "unknown-augmentation": {"augmentation": {"transforms": {"twirl": True}}},
        "unknown-lr-scheduler": {"lr_scheduler": "square"},
    }
    for code, change in changes.items():
        with refuses(code, ConfigError):
            trained(study, small_config(**change))
    assert not study.results.exists()


@pytest.mark.parametrize("cases, steps", [(3, 4), (8, 4), (9, 5)])
def test_an_epoch_uses_every_case(cases: int, steps: int) -> None:
    assert small_config().training.steps_per_epoch(cases) == steps


def test_the_pocket_network_trains(study: Study) -> None:
    assert "nnunet-pocket" in MODELS
    change = {"model.architecture": "nnunet-pocket", "spatial_config.patch_size": [32, 32, 32]}
    config = override(small_config(epochs=1, min_steps_per_epoch=1, batch_size_per_gpu=1), change)
    few = replace(FOLD, training=("a",))
    assert len(list(train_fold(study, config, few, device="cpu"))) == 1
    assert study.model(0).is_file()


def test_alpha_of_a_blended_loss_changes_over_the_epochs_and_is_drawn(study: Study) -> None:
    loss = {"name": "cldice", "composite_loss_weighting": {"name": "linear", "params": {"init_pause": 0}}}
    assert [epoch.alpha for epoch in trained(study, small_config(loss=loss))] == [1.0, 0.5, 0.0]
    events = EventAccumulator(str(study.logs(0)))
    events.Reload()
    assert [event.value for event in events.Scalars("alpha")] == [1.0, 0.5, 0.0]


def test_a_loss_that_is_not_blended_has_no_alpha(study: Study) -> None:
    assert [epoch.alpha for epoch in trained(study, small_config(epochs=1))] == [None]


def pretrained(folder: Path, seed: int) -> Pretrained:
    """A model of another study."""
    source, config = small_study(folder), small_config(seed=seed, epochs=2)
    trained(source, config)
    write_config(source.config, config)
    return Pretrained(source.model(0), source.config)


def test_pretrained_weights_are_recorded_and_kept_when_resuming(study: Study, tmp_path: Path) -> None:
    first, other = (pretrained(tmp_path / str(seed), seed) for seed in (1, 2))
    still = small_config(epochs=1, learning_rate=1e-12, l2_penalty=0.0)
    trained(study, still, pretrained=first)
    assert weights(study)["layers.0.weight"].allclose(torch.load(first.weights, weights_only=True)["layers.0.weight"])
    recorded = read_passport(study.model(0)).pretrained
    assert recorded is not None
    with refuses("resume-mismatch", ConfigError, names="pretrained.weights was"):
        trained(study, pretrained=other, resume=True)
    assert len(trained(study, resume=True)) == 2
    assert read_passport(study.model(0)).pretrained == recorded


def test_a_fold_starts_from_its_present_model_and_its_passport_says_so(study: Study) -> None:
    assert present_model(study, FOLD) is None
    trained(study)
    write_config(study.config, small_config())
    before, hashed = weights(study, checkpoint=False), file_hash(study.model(0))
    still = small_config(epochs=1, learning_rate=1e-12, l2_penalty=0.0)
    trained(study, still, pretrained=present_model(study, FOLD))
    assert all(tensor.allclose(before[name]) for name, tensor in weights(study).items())  # and not only the encoder
    recorded = read_passport(study.model(0)).pretrained
    assert recorded
    assert (recorded.whole, recorded.weights, recorded.loaded) == (True, hashed, len(before))
    assert recorded.passport
    assert set(recorded.passport.content.training) == {"a", "b", "c"}  # type: ignore[union-attr]


def test_a_fold_does_not_start_from_a_model_that_saw_its_other_patients(study: Study) -> None:
    trained(study)
    for edited in (replace(FOLD, training=("b", "c"), validation=("a", "d")), replace(FOLD, held_out=("a", "d"))):
        with refuses("model-saw-patient", ConfigError, file=study.model(0), found=["a"]):
            present_model(study, edited)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.filterwarnings("ignore")  # Warnings of the compiler differ between versions.
def test_a_compiled_network_is_trained_to_the_same_weights(
    study: Study, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # A compiled network draws dropout differently, and rounds to BF16 in other places.
    params = {"in_channels": 1, "out_channels": 3, "dropout": 0.0}
    plain = override(small_config(amp=False, epochs=2), {"model.params": params})
    other = small_study(tmp_path / "plain")
    trained(other, plain)
    trained(study, override(plain, {"training.hardware.compile": True}))
    assert "uncompiled" not in caplog.text
    for name, value in weights(study).items():
        torch.testing.assert_close(value, weights(other)[name], rtol=0.0, atol=1e-4)


def test_memory_that_runs_out_in_training_names_what_a_step_needs(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("mist_ops.training.loop.training_step", full)
    with refuses("out-of-memory", MachineError, names="batches of 2 patches of 8x8x8 voxels, which need about 0.0 GiB"):
        trained(study)
