"""What a checkpoint can do: probes of a model's use of its context, made without a download."""
