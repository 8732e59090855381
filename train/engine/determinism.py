"""`engine.deterministic`: the same bits from the same inputs on a GPU, as CPUs give them anyway.

By default cuDNN's attention, which is the fastest, adds up gradients in the order in which its threads finish. The mode
takes FlashAttention-2 in a fixed order instead, refuses operators that have no fixed order, gives cuBLAS a work space
of its own per stream, and keeps the compiler from choosing kernels by their measured speed.

What equal bits need besides is not in a program's hands: the same kind and number of GPUs, the same links between them
(NCCL chooses the order of a sum by these), the same versions of torch, CUDA and NCCL.
"""

import os

import torch

WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS first needs a work space


def set_determinism(is_on: bool) -> None:
    """Turns the mode on or off for this process; to be called before the first product on a GPU.

    A value of CUBLAS_WORKSPACE_CONFIG that is set already is kept.
    """
    if is_on:
        os.environ.setdefault(*WORKSPACE)
        from torch._inductor import config as compiler

        if hasattr(compiler, "deterministic"):  # not in every version that is supported
            compiler.deterministic = True
    if torch.are_deterministic_algorithms_enabled() != is_on:  # importing torch's compiler takes a second
        torch.use_deterministic_algorithms(is_on)
    # Filling new tensors costs a pass over each, and only shows faults of programs.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 - unknown to the checker of types
    torch.backends.cuda.enable_cudnn_sdp(not is_on)
    torch.backends.cuda.enable_mem_efficient_sdp(not is_on)
