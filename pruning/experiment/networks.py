"""The networks of a run: built, with other weights, as a teacher, and without the removed filters."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from pruning import data, models
from pruning.axes.structure import output_dimension
from pruning.config.run_config import RunConfig
from pruning.errors import PruningError
from pruning.experiment.session import Session
from pruning.measure import shrink
from pruning.registry import STRUCTURES
from pruning.training.packed_layout import training_forward


def build_network(config: RunConfig, images: data.Dataset, device: torch.device) -> nn.Module:
    """Return the network with its first weights on the device, in the memory format of the fastest convolutions."""
    model = models.build(
        config.arch,
        classes=len(images.classes),
        shape=images.shape,
        pretrained=config.pretrained,
        weights=config.weights,
    ).to(device)
    if device.type in ("cpu", "cuda"):
        model = model.to(memory_format=torch.channels_last)
    return model


def new_network(session: Session, seed: int) -> nn.Module:
    """Return an unpruned network of the run's architecture, initialised by `seed`."""
    torch.manual_seed(seed)
    return build_network(without_first_weights(session.config), session.data, session.device)


def without_first_weights(config: RunConfig) -> RunConfig:
    """Return the options without --pretrained and --weights, for a network whose weights are loaded afterwards."""
    return config.model_copy(update={"pretrained": False, "weights": None})


def teacher(session: Session, state: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the function that computes the outputs of the trained dense network."""
    network = new_network(session, session.config.seed).eval().requires_grad_(False)
    network.load_state_dict(state)
    return training_forward(network, session.config.precision, session.device)


def networks_to_time(session: Session) -> dict[str, nn.Module]:
    """Return the networks to time: "dense", "pruned" and, if filters can be removed for real, "shrunk".

    Warns if filters are pruned but the network cannot be shrunk.
    """
    networks = {"dense": new_network(session, session.config.seed), "pruned": session.model}
    try:
        shrunk = shrink_network(session)
    except PruningError as error:
        session.warn(f"The pruned filters are timed as zeros only. {error}")
        return networks
    if shrunk is not None and shrunk.widths:
        networks["shrunk"] = shrunk.model
    return networks


def shrink_network(session: Session) -> shrink.ShrunkNetwork | None:
    """Return the network without its pruned filters; None if no whole filter is pruned.

    A run that prunes single weights is not shrunk, even if all weights of some filter happen to be pruned: that would
    require torch-pruning where the user did not prune filters.

    Raises:
        PruningError: torch-pruning is missing or cannot follow the network.
    """
    if not STRUCTURES.entry(session.config.structure).spec.coupled:
        return None
    layers = [layer.parameter.detach().transpose(0, output_dimension(layer)) for layer in session.layers]
    if all(bool(weight.flatten(1).any(1).all()) for weight in layers):
        return None
    images = torch.randn(2, *session.data.shape, generator=torch.Generator().manual_seed(0))
    return shrink.shrink(session.model, images.to(session.device))
