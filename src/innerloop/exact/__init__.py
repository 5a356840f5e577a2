"""The meta-training loss at every inner rate, and its exact minimisers."""
