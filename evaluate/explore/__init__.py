"""The position explorer: a local page that shows the positions and the attention of a text."""
