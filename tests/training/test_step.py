from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from training.small_study import small_config

from mist_ops.config import StudyConfig, override
from mist_ops.registry import MODELS
from mist_ops.training import step
from mist_ops.training.batches import Batch
from mist_ops.training.computing import choose
from mist_ops.training.distributed import Ranks
from mist_ops.training.step import STEPS_TO_COMPILE, BatchLoss, batch_loss

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
DRAWS = torch.Generator().manual_seed(0)
IMAGE = torch.randn((2, 1, 8, 8, 8), generator=DRAWS)
LABEL = torch.randint(3, (2, 1, 8, 8, 8), generator=DRAWS, dtype=torch.uint8)


def config(**training: Any) -> StudyConfig:
    plain = small_config(amp=False, **training)
    return override(plain, {"model.params": {**plain.model.params.model_dump(), "dropout": 0.0}})


def loss_of(settings: StudyConfig, ranks: Ranks | None = None) -> tuple[BatchLoss, torch.nn.Module]:
    torch.manual_seed(0)
    model = MODELS["tiny"].build(
        patch_size=(8, 8, 8), target_spacing=(1.0, 1.0, 1.0), **settings.model.params.model_dump()
    )
    return batch_loss(settings, model, CPU, ranks or Ranks(), STEPS_TO_COMPILE, choose(settings, CPU)), model


@pytest.mark.parametrize(
    "requested, device, steps, compiles",
    [
        (None, GPU, STEPS_TO_COMPILE, True),
        (None, GPU, STEPS_TO_COMPILE - 1, False),
        (None, CPU, STEPS_TO_COMPILE, False),
        (True, CPU, 1, True),
        (False, GPU, STEPS_TO_COMPILE, False),
    ],
)
def test_training_is_compiled_where_it_pays_off_or_as_requested(
    requested: bool | None, device: torch.device, steps: int, compiles: bool
) -> None:
    assert (step._why_uncompiled(requested, device, steps) is None) == compiles


def test_a_batch_is_augmented_on_its_way_to_the_loss() -> None:
    loss, _ = loss_of(config())
    plain = Batch(("a", "b"), IMAGE.clone(), LABEL)
    brighter = Batch(("a", "b"), IMAGE.clone(), LABEL, drawn=({"brightness": (1.3,)}, {}))
    assert loss(plain, None) != loss(brighter, None)
    assert brighter.image[0].equal(IMAGE[0] * 1.3)
    assert brighter.image[1].equal(IMAGE[1])


def test_alpha_weights_a_blended_loss() -> None:
    loss, _ = loss_of(config(loss={"name": "cldice"}))
    batch = Batch(("a", "b"), IMAGE, LABEL)
    ends, middle = [loss(batch, alpha).item() for alpha in (0.0, 1.0)], loss(batch, 0.5).item()
    assert middle == pytest.approx(sum(ends) / 2)
    assert ends[0] != pytest.approx(ends[1])


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.filterwarnings("ignore")  # Warnings of the compiler differ between versions.
@pytest.mark.parametrize("name, alpha", [("dice_ce", None), ("cldice", 0.3)])
def test_a_compiled_loss_has_the_value_and_the_gradient_of_the_uncompiled_one(name: str, alpha: float | None) -> None:
    found = []
    for compiles in (False, True):
        loss, model = loss_of(config(loss={"name": name}, **{"hardware.compile": compiles}))
        assert (loss.uncompiled is None) == compiles
        assert all(weight.grad is None for weight in model.parameters())
        value = loss(Batch(("a", "b"), IMAGE, LABEL), alpha)
        value.backward()
        found.append([value.detach(), *(weight.grad for weight in model.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


ONE_GRAPH = """
import torch
from training.small_study import add_tiny
from training.test_step import IMAGE, LABEL, config, loss_of

add_tiny()
for name in ("dice", "dice_ce"):
    loss, _ = loss_of(config(loss={"name": name}))
    torch.compile(loss.compute, fullgraph=True, backend="eager")(IMAGE, LABEL, None, None)
"""


@pytest.mark.slow
def test_network_and_loss_are_one_graph() -> None:
    """Without the checks of shapes, which the compiler cannot trace."""
    folders = [str(Path(__file__).parents[number]) for number in (1, 2)]
    code = f"import sys; sys.path[:0] = {folders!r}\n{ONE_GRAPH}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_uncompiled_loss_has_a_reason() -> None:
    loss, _ = loss_of(config())
    assert loss.uncompiled
