"""Analysis: a run folder read back, its statistics, and the table with its words."""
