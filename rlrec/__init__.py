"""rlrec: reinforcement learning for language models that explain recommendations; the reward is a recommender."""

__version__ = "0.1.0"
