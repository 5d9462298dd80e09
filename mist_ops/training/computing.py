"""How a network is computed in training: precision and memory format.

Both are looked up, not timed at the start: a trial on a busy machine could end either way, and weights would no longer
be reproducible.
"""

from __future__ import annotations

import torch

from mist_ops.config import StudyConfig
from mist_ops.devices import computes_bf16, has_amx, prefers_bf16
from mist_ops.models import MemoryFormat, Precision
from mist_ops.records.passport import Computing
from mist_ops.registry import MODELS
from mist_ops.training.state import TrainingState


def choose(config: StudyConfig, device: torch.device) -> Computing:
    """The fastest precision and memory format of a network on a device, as far as the configuration leaves a choice."""
    requested = config.training.hardware.memory_format
    precision: Precision = "bf16" if config.training.amp and prefers_bf16(device) else "fp32"
    memory_format: MemoryFormat = "channels_first"
    if device.type == "cpu" and has_amx():
        fastest, order = MODELS[config.model.architecture].on_amx
        if fastest == "fp32" or precision == "bf16":
            precision, memory_format = fastest, order
    return Computing(precision=precision, memory_format=memory_format if requested == "auto" else requested)


def arrange(state: TrainingState, config: StudyConfig, device: torch.device) -> Computing:
    """Decide how a run is computed, and bring its weights and optimizer into that memory format.

    A resumed run continues as it began, so that it ends with the same weights, unless the settings or the device no
    longer allow it. The change is then recorded.
    """
    chosen = choose(config, device)
    if state.epoch:
        began = state.computing or _of_earlier_versions(config, device)
        kept = Computing(
            precision=began.precision if config.training.amp and computes_bf16(device) else "fp32",
            memory_format=began.memory_format
            if config.training.hardware.memory_format == "auto"
            else chosen.memory_format,
        )
        changes = [
            f"from epoch {state.epoch + 1}: {name.replace('_', ' ')} was {before} and is now {getattr(kept, name)}"
            for name, before in began
            if before != getattr(kept, name)
        ]
        state.changes, chosen = [*state.changes, *changes], kept
    state.computing = chosen
    if chosen.memory_format == "channels_last":
        state.model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return chosen


def _of_earlier_versions(config: StudyConfig, device: torch.device) -> Computing:
    """What a checkpoint without a record was computed in."""
    bf16 = config.training.amp and computes_bf16(device)
    return Computing(precision="bf16" if bf16 else "fp32", memory_format="channels_first")
