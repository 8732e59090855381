"""What every package may use: files written whole, JSON lines, the base of all user errors. Standard library only."""
