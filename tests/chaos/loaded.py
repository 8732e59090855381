"""Everything that a rank loads, for processes that are forked to be ranks."""

import gc

import deepspeed  # noqa: F401
import torch._dynamo  # noqa: F401  # torch loads it when a parameter is filled on the meta device

import train.__main__  # noqa: F401

gc.collect()
gc.freeze()  # every start collects garbage: with all modules that takes half a second
