"""Torch networks under the parameter names of their published checkpoints; only export and training import torch."""
