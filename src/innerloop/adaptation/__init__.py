"""How a task adapts to its rows, and how tasks differ."""
