"""Contents of a run's checkpoint; save and restore it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from pruning.config.resolution import differences
from pruning.core.masks import Masks
from pruning.errors import PruningError
from pruning.experiment.progress import RunProgress, TrainingSnapshot
from pruning.experiment.session import Session

FORMAT = 2  # raised whenever the contents below change


@dataclass(frozen=True)
class RunCheckpoint:
    """State that a run needs to resume with bit-identical results.

    Attributes:
        progress: Metrics, warnings and timing so far.
        fingerprint: Data, code, hardware and versions that the run depends on; equal when it resumes.
        network: Weights, masks and accumulated statistics (see `network_tensors`).
        accepted: The network of the last accepted round, for --max-drop; empty without it.
        training: The state of the training that was in progress; None between trainings.
    """

    progress: RunProgress
    fingerprint: Mapping[str, Any]
    network: Mapping[str, Tensor]
    accepted: Mapping[str, Tensor]
    training: TrainingSnapshot | None

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the checkpoint as tensors and as values that JSON holds."""
        tensors, position = self.training or ({}, None)
        groups = pack_groups(network=self.network, accepted=self.accepted, training=tensors)
        return groups, {
            "format": FORMAT,
            "progress": asdict(self.progress),
            "fingerprint": dict(self.fingerprint),
            "position": position,
        }

    @classmethod
    def unpack(cls, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> RunCheckpoint:
        """Return the checkpoint that `pack` returned.

        Raises:
            PruningError: Another version of this program wrote it.
        """
        if values.get("format") != FORMAT:
            raise PruningError(
                f"The checkpoint has format {values.get('format', 1)}, not {FORMAT}: another version of this program "
                "wrote it. Resume with that version, or start again with --fresh."
            )
        position = values["position"]
        return cls(
            progress=RunProgress(**values["progress"]),
            fingerprint=values["fingerprint"],
            network=unpack_group(tensors, "network"),
            accepted=unpack_group(tensors, "accepted"),
            training=None if position is None else (unpack_group(tensors, "training"), position),
        )


def checkpoint_of(session: Session, training: TrainingSnapshot | None = None) -> RunCheckpoint:
    """Return the state of a run, with the state of the training in progress if there is one."""
    session.clock.lap()
    session.progress.log_length = session.log.length
    return RunCheckpoint(
        progress=session.progress,
        fingerprint=run_fingerprint(session),
        network=network_tensors(session),
        accepted=session.accepted,
        training=training,
    )


def save(session: Session, training: TrainingSnapshot | None = None) -> None:
    """Save the state of a run in its folder."""
    session.folder.checkpoints.save(*checkpoint_of(session, training).pack())


def load(session: Session) -> RunCheckpoint | None:
    """Return the newest intact checkpoint in the run's folder; None if there is none."""
    found = session.folder.checkpoints.load()
    return None if found is None else RunCheckpoint.unpack(*found)


def restore(session: Session, checkpoint: RunCheckpoint) -> None:
    """Continue a run from a checkpoint."""
    session.progress = checkpoint.progress
    session.clock.lap()
    session.clock.seconds = session.progress.timing
    load_network(session, checkpoint.network)
    session.accepted = dict(checkpoint.accepted)
    session.resumed_training = checkpoint.training
    session.steps_done = session.dense_steps + len(session.progress.rounds) * session.round_steps


def check_fingerprint(session: Session, checkpoint: RunCheckpoint) -> None:
    """Raise PruningError if the checkpoint depends on other data, code, hardware or versions than the run."""
    different = differences(checkpoint.fingerprint, run_fingerprint(session))
    if different:
        raise PruningError(
            f"{session.folder.path} was started under other conditions: {'; '.join(different)}. "
            "Restore them, or start again with --fresh."
        )


def run_fingerprint(session: Session) -> dict[str, Any]:
    """Return everything that the run depends on besides its options."""
    return session.fingerprint | session.config.plugin_digest()


def network_tensors(session: Session) -> dict[str, Tensor]:
    """Return weights, masks and accumulated statistics of the network as one mapping."""
    masks = {} if session.masks is None else session.masks.tensors()
    return pack_groups(
        model=session.model.state_dict(), mask=masks, accumulated=session.accumulated.tensors()
    )


def load_network(session: Session, tensors: Mapping[str, Tensor]) -> None:
    """Load what `network_tensors` returned."""
    session.model.load_state_dict(unpack_group(tensors, "model"))
    masks = unpack_group(tensors, "mask")
    session.masks = Masks.from_tensors(masks).apply(session.model) if masks else None
    session.accumulated.load(unpack_group(tensors, "accumulated"))


def pack_groups(**groups: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return groups of named tensors as one mapping, with names `group.name`."""
    return {
        f"{group}.{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()
    }


def unpack_group(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    """Return one group of what `pack_groups` returned."""
    return {
        name.removeprefix(f"{group}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{group}.")
    }
