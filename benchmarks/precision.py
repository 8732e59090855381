"""What rounding costs RePo's positions: the published chain and ours against float64, on the same bf16 weights.

python -m benchmarks.precision
"""

import argparse

import torch
import torch.nn.functional as F

from benchmarks.figures import Figure, report
from model.config import ModelConfig, PositionPrecision, PositionsConfig
from model.positions.module import Positions
from model.positions.repo import Repo

MODEL = ModelConfig()  # OLMo-2 1B
MOST_ERROR = 1e-5  # of z


def main() -> None:
    """Reports the rms error of z over the rms of z for both chains, and the largest error of a bf16 cosine."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.precision", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tokens", type=int, default=2048)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    h = torch.randn(1, arguments.tokens, MODEL.hidden_size).bfloat16()
    ours, published = (
        Positions(Repo(MODEL, PositionsConfig(precision=precision))).bfloat16()
        for precision in (PositionPrecision.float32, PositionPrecision.reference)
    )
    published.load_state_dict(ours.state_dict())
    gate, content, final = (weight.double() for weight in ours.parameters())
    z = F.linear(F.silu(F.linear(h.double(), gate)) * F.linear(h.double(), content), final)
    with torch.no_grad():
        errors = [
            float((chain(h).double() - z).square().mean().sqrt() / z.square().mean().sqrt())
            for chain in (published, ours)
        ]
    cosine = torch.linspace(0, 2 * torch.pi, 100_001).cos()
    report(
        Figure("relative error of z, published: bf16 throughout", errors[0]),
        Figure("relative error of z, ours: float32 after the first product", errors[1], at_most=MOST_ERROR),
        Figure("error of a cosine in bf16", float((cosine.bfloat16().float() - cosine).abs().max())),
    )


if __name__ == "__main__":
    main()
