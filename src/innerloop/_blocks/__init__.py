"""Resumable work in numbered blocks: stores on disk, worker pools, and fingerprints of plans."""
