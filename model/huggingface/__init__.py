"""In and out of Hugging Face: the code that an export carries, and what is written beside the weights."""
