"""Settings that make a step faster or smaller on this machine without changing its results.

Activation checkpointing keeps only the input of each layer and computes the rest again in the backward pass.
`torch.compile` fuses the operations between a layer's matrix products. Liger's kernels do the same on CUDA without
compiling, for the models that Liger supports.
"""

from __future__ import annotations

from importlib.util import find_spec

from learner.checks import BadInput
from learner.model.policy import Policy
from learner.settings import LearnerSettings


def accelerate(policy: Policy, settings: LearnerSettings) -> None:
    """Prepare a policy as the settings say; call it before the policy is sharded.

    Raises:
        BadInput: Liger is requested but not available.
    """
    if settings.liger:
        _use_liger(policy)
    if settings.activation_checkpointing:
        policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if settings.compile:
        for layer in policy.layers:
            layer.compile(dynamic=True)  # layers have the same shapes, so they share one compiled graph


def _use_liger(policy: Policy) -> None:
    if policy.device.type != "cuda" or find_spec("liger_kernel") is None:
        raise BadInput("Liger's kernels need a CUDA GPU and the extra `liger`: start the learner without --liger")
    from liger_kernel.transformers import _apply_liger_kernel_to_instance
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    model = policy.model.get_base_model() if policy.is_adapter else policy.model
    if model.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise BadInput(f"Liger has no kernels for {model.config.model_type}: start the learner without --liger")
    # Each token has its own weight in `chosen_logprobs.py`; Liger's fused loss would replace the model's forward.
    _apply_liger_kernel_to_instance(model=model, cross_entropy=False, fused_linear_cross_entropy=False)
