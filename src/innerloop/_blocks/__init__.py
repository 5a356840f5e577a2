"""Work in numbered blocks that survives kills: stores, worker pools, and what tells one plan from another."""
