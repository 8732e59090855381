"""Time: the loop, the engine, checkpoints, callbacks and the position watch."""
