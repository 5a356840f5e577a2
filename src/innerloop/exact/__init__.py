"""The meta-training loss at every inner rate at once, and its exact minimisers."""
