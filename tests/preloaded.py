"""What ranks need, imported once: the fork server of tests/distributed.py loads this."""

import os

os.environ["DS_ACCELERATOR"] = "cpu"  # DeepSpeed looks for one when it is imported
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import deepspeed

import train.__main__

__all__ = ["deepspeed", "train"]
