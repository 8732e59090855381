"""The engine: parameters, gradients and optimizer state in training, held by DeepSpeed at ZeRO stage 0, 1, 2 or 3.

    build.py       the one place that picks a class by ZeRO stage and precision: `build_engine`, `resolve_precision`
    engine.py      `Engine`, all that the trainer and its callbacks see, and what the stages share
    plain.py       ZeRO 0: every rank holds everything
    zero.py        what ZeRO 1, 2 and 3 share: an update is DeepSpeed's step
    zero12.py      ZeRO 1 and 2: gradients and optimizer state are partitioned, parameters are whole
    zero3.py       ZeRO 3: parameters are partitioned too
    compilation.py torch.compile for the blocks
    determinism.py the same bits on a GPU
    settings.py    DeepSpeed's own config
    stopwatch.py   device time without waiting for the device

DeepSpeed 0.19.8 has faults that a trainer must know of. Each is refused or remedied in this package, and nowhere else:

- ZeRO 0 with bf16 takes one optimizer step with zero gradients at start, so that AdamW's bias correction is off by one
  and the first update is 0.73 times what it should be: refused (build.py).
- Gradients are accumulated and reduced in the model's dtype by default: set to fp32 (settings.py).
- fp32 master weights are made from the bf16 weights, already rounded: they are written again in full precision
  (zero.py).
- A non-finite gradient makes ZeRO 1 to 3 skip the update silently, and makes ZeRO 0 turn every parameter into NaN:
  `Engine.update` reports it, and ZeRO 0 removes the gradients and clips by itself, as DeepSpeed's clipping fails where
  there are none (plain.py). A loss is not checked: `Engine.accumulate` makes the gradient of a non-finite loss NaN.
- An update cannot be refused: ZeRO 1 to 3 get a NaN in one gradient, so that DeepSpeed's own rule skips it (zero.py).
- ZeRO 1 with bf16 and fp32 accumulation has an optimizer class of its own (BF16_Optimizer), with other methods and
  whole gradients on every rank (`Zero1Bf16Engine` in zero12.py).
- A checkpoint brings back the weight decay, betas, eps and kernel (`fused`) that it was saved with: `Engine.load` sets
  the configured ones again.
- A checkpoint of another layout loads wrongly or not at all (train/checkpoint/universal.py): `Engine.load_optimizer`
  sets the moments tensor by tensor, and gives each group a step counter of its own.
- ZeRO 3's setter of whole values fails where the ranks do not divide a parameter's size: values are set by partition
  (zero3.py).
- An optimizer named in its config compiles CUDA code at start, on a CPU too: it is given torch's AdamW (engine.py).
- Its throughput timer waits for the device in every micro-batch: switched off (settings.py).

Nothing is imported here: `train.engine.config` must stay readable without torch.
"""
