"""Figures: functions of a result and a matplotlib Axes."""
