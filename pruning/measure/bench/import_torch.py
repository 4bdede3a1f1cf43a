"""A process that only imports torch: the scale of the start-up benchmark."""

import torch  # noqa: F401
