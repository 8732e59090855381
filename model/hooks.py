"""Whether calls of a module are listened to."""

from torch import nn


def has_hooks(module: nn.Module) -> bool:
    """Returns whether `module` has hooks, so that its own forward has to be called.

    Under ZeRO 3 every module has: weights are gathered in them.
    """
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(len(of_kind) > 0 for of_kind in hooks)
