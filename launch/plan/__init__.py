"""What a run needs before it starts: memory, time, traffic and disk, from the trainer's own accounting; no torch."""
