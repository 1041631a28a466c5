"""The prepared clips of a run, and whether they fit its settings and model: one answer for a run and its estimate."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from diffusers_jova.training.data.dataset import PrecomputedDataset
from diffusers_jova.training.data.record import RecordHeader
from diffusers_jova.training.loop.config import TrainConfig
from diffusers_jova.training.loop.model import (
    check_first_frames,
    check_keyframes,
    check_loudness,
    check_meetings,
    check_records,
    check_rows,
    check_spoken,
    check_tasks,
    check_towers,
)
from diffusers_jova.training.loop.tasks import tasks_of
from diffusers_jova.transformer_jova import MODALITIES
from diffusers_jova.weight_branches import branch_of


@dataclass(frozen=True)
class RunClips:
    """The clips of a run.

    Attributes:
        own: That it is for.
        prior: Against forgetting; None without.
        held_out: Whose loss is measured; None without.
    """

    own: PrecomputedDataset
    prior: PrecomputedDataset | None
    held_out: PrecomputedDataset | None

    @classmethod
    def read(cls, config: TrainConfig, device: torch.device | None = None) -> RunClips:
        """Read the headers of all records, and the records where they stay in memory.

        Args:
            config: The run's settings.
            device: Where they stay; None leaves them on the disk.
        """
        read = partial(
            PrecomputedDataset,
            in_memory=device is not None,
            device="cpu" if device is None else device,
            mouth_box_scale=config.mouth_box_scale,
            with_faces=config.face_mask_weight > 0,
            with_voices=any(task.has_voice for task in tasks_of(config)),
        )
        prior, held_out = (
            read(folder, setting=name) if (folder := getattr(config, name)) else None
            for name in ("prior_data", "validation_data")
        )
        return cls(read(config.data), prior, held_out)

    @property
    def trained(self) -> list[PrecomputedDataset]:
        """What steps see."""
        return [dataset for dataset in (self.own, self.prior) if dataset is not None]

    @property
    def headers(self) -> list[RecordHeader]:
        """Of all records."""
        read = [*self.trained, *([self.held_out] if self.held_out is not None else [])]
        return [header for dataset in read for header in dataset.headers]

    @property
    def lacking(self) -> set[str]:
        """Modalities that some of the trained clips do not have."""
        layouts = [layout for dataset in self.trained for layout in dataset.layouts]
        return {name for name in MODALITIES for layout in layouts if layout.latents[f"{name}_latents"] is None}

    def check_settings(self, config: TrainConfig) -> None:
        """Refuse clips that the stage cannot use.

        Raises:
            ValueError: There is one, or they have several rates.
        """
        for header in self.headers if config.stage != "joint" else ():
            if f"{config.stage}_latents" not in header.shapes:
                raise ValueError(
                    f"every clip for `stage: {config.stage}` must have {config.stage}, but some in "
                    f"`{header.path.parent}` have none; move those to another folder or train `stage: joint`"
                )
        rates = {header.metadata.get("audio_latent_rate_hz") for header in self.headers}
        if len(rates) > 1:
            raise ValueError(
                f"all clips must have one `audio_latent_rate_hz`, got {sorted(map(str, rates))}; "
                "prepare them with one pipeline"
            )

    def check_model(self, transformer: Any, config: TrainConfig) -> None:
        """Refuse clips that do not fit the weights, or from which these learn nothing.

        Args:
            transformer: Made ready for what the run trains, with or without values.
            config: The run's settings.

        Raises:
            ValueError: There are some.
        """
        headers = self.headers
        check_records(headers, transformer)
        check_rows(headers, transformer, config)
        check_spoken(headers, transformer, config)
        check_first_frames(headers, transformer, config)
        check_keyframes(headers, transformer, config)
        check_towers(self.trained, transformer, config)
        check_meetings(transformer, config)
        check_tasks(self.trained, transformer, config)
        check_loudness(headers, config)
        trained = {branch_of(name) for name, weight in transformer.named_parameters() if weight.requires_grad}
        if len(trained) == 1 and trained <= self.lacking:
            raise ValueError(
                f"every clip must have {trained.pop()} where nothing else is trained, but some in `{config.data}` "
                "have none; move those to another folder or train more than one branch"
            )
