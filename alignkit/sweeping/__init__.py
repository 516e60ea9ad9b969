"""Several runs of one command: grids and studies."""
