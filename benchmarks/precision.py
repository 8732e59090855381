"""What rounding costs RePo's positions: the published chain and ours against float64, on the same bf16 weights.

python -m benchmarks.precision
"""

import torch
import torch.nn.functional as F

from model.config import ModelConfig, PositionPrecision, PositionsConfig
from model.positions.module import Positions
from model.positions.repo import Repo

MODEL = ModelConfig()  # OLMo-2 1B
TOKENS = 2048


def main() -> None:
    """Prints the rms error of z over the rms of z for both chains, and the largest error of a bf16 cosine."""
    torch.manual_seed(0)
    h = torch.randn(1, TOKENS, MODEL.hidden_size).bfloat16()
    ours, published = (
        Positions(Repo(MODEL, PositionsConfig(precision=precision))).bfloat16()
        for precision in (PositionPrecision.float32, PositionPrecision.reference)
    )
    published.load_state_dict(ours.state_dict())
    gate, content, final = (weight.double() for weight in ours.parameters())
    z = F.linear(F.silu(F.linear(h.double(), gate)) * F.linear(h.double(), content), final)
    with torch.no_grad():
        for chain, name in ((published, "published, bf16 throughout"), (ours, "ours, float32 after the first product")):
            error = (chain(h).double() - z).square().mean().sqrt() / z.square().mean().sqrt()
            print(f"{name:<40} error of z {error:.1e}")
    cosine = torch.linspace(0, 2 * torch.pi, 100_001).cos()
    print(f"{'a cosine in bf16':<40} error {(cosine.bfloat16().float() - cosine).abs().max():.1e}")


if __name__ == "__main__":
    main()
