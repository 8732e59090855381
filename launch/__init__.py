"""Starting processes. Nothing here imports torch: a mistake is reported in a fraction of a second."""
