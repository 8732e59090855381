"""What vLLM makes of an export, run by the interpreter of vLLM's own environment, which has nothing of this project.

Reads from standard input a JSON object with the arguments of `LLM`, `prompts` (token ids) and `num_tokens`. Its last
line of output is one with the `tokens` after each prompt, taken greedily, the log-probabilities of the prompts' own
tokens, and the versions.
"""

import json
import os
import sys
from importlib.metadata import version
from typing import Any


def main() -> None:
    """Runs all prompts at once."""
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
    from vllm import LLM, SamplingParams

    asked = json.load(sys.stdin)
    llm = LLM(skip_tokenizer_init=True, trust_remote_code=True, seed=0, **asked["settings"])
    sampling = SamplingParams(
        temperature=0.0, max_tokens=asked["num_tokens"], ignore_eos=True, detokenize=False, prompt_logprobs=0
    )
    outputs: list[Any] = llm.generate([{"prompt_token_ids": prompt} for prompt in asked["prompts"]], sampling)
    answer = {
        "tokens": [list(output.outputs[0].token_ids) for output in outputs],
        "logprobs": [
            [seen[token].logprob for token, seen in zip(prompt, output.prompt_logprobs, strict=True) if seen]
            for prompt, output in zip(asked["prompts"], outputs, strict=True)
        ],
        "versions": {name: version(name) for name in ("vllm-cpu", "transformers", "torch")},
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
