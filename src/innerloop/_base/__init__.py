"""Foundations that know nothing of tasks: argument checks, seeds, ragged arrays, files, threads, progress."""
