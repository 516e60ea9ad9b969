"""alignkit: supervised fine-tuning, reward models, DPO and its family, direct preference heads and PPO on one trunk."""

__version__ = "0.1.0"
