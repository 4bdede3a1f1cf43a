"""The training recipes of a run, from its options."""

from __future__ import annotations

from dataclasses import replace

from pruning.config.run_config import RunConfig
from pruning.training.recipe import Recipe
from pruning.training.seeds import derive_seed


def dense_recipe(config: RunConfig, batch_limit: int | None) -> Recipe:
    """Return the recipe of the dense training."""
    return Recipe(
        epochs=config.epochs,
        batch_size=config.batch_size,
        peak_lr=config.max_lr or config.lr,
        base_lr=config.lr if config.max_lr is not None else None,
        weight_decay=config.weight_decay,
        precision=config.precision,
        seed=derive_seed(config.seed, "dense"),
        batch_limit=batch_limit,
    )


def replay_recipe(config: RunConfig, number: int, batch_limit: int | None) -> Recipe:
    """Return the recipe of round `number` that replays the dense training from --rewind-epoch to its end."""
    seed = derive_seed(config.seed, "finetune", number)
    return replace(dense_recipe(config, batch_limit), seed=seed, first_epoch=config.rewind_epoch)


def finetune_recipe(config: RunConfig, number: int, batch_limit: int | None) -> Recipe:
    """Return the recipe of round `number` by --finetune-epochs and --finetune-lr, or the replay without them."""
    replay = replay_recipe(config, number, batch_limit)
    if config.finetune_lr is None:
        return replay
    return replace(
        replay,
        epochs=config.finetune_epochs,
        peak_lr=config.finetune_lr,
        base_lr=None,
        first_epoch=0,
    )
