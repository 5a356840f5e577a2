"""The figures of A. Bernacchia, "Meta-learning with negative learning rates" (ICLR 2021, arXiv:2102.00940)."""
