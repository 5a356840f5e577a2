"""Few-shot problems, the Omniglot archive, and networks for them."""
