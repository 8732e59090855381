"""Two tasks for lm-eval, and the code that writes their data."""
