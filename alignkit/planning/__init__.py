"""What a run needs on devices that need not be here: memory a rank, communication, seconds."""
