"""Training: runs a configuration, and writes checkpoints, a log and sample images to a run folder."""

from __future__ import annotations

from lab2pix.training.checkpoint import latest_checkpoint
from lab2pix.training.loop import RunResult, train
from lab2pix.training.monitor import Validator
from lab2pix.training.run_folder import read_run_config

__all__ = ["RunResult", "Validator", "latest_checkpoint", "read_run_config", "train"]
