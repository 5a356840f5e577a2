"""From a table to tasks, and from tasks to support and query rows."""
