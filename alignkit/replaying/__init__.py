"""Steps that were not taken, run again."""
