"""What a model is made of: plain dataclasses, fit to be structured configs, importable without torch.

Defaults are OLMo-2 1B with RePo where the paper puts it (arXiv 2512.14391): from the layer a third of the way up,
`num_layers // 3`, to the top. `layer_kinds` is the only place that says which layer gets which positions.
"""

from dataclasses import dataclass, field
from enum import Enum

from model.errors import ModelError


class AttentionBackend(Enum):
    """Who computes attention; `auto` is settled once, when the model is built."""

    auto = "auto"
    flash_attn = "flash_attn"
    sdpa = "sdpa"
    plain = "plain"


class PositionKind(Enum):
    """Where one layer's positions come from: the token's index, nowhere, or the learned map."""

    rope = "rope"
    nope = "nope"
    repo = "repo"


class Scheme(Enum):
    """How kinds of positions are dealt to layers."""

    rope = "rope"
    nope = "nope"
    repo = "repo"
    r2n1 = "r2n1"
    n2r1 = "n2r1"
    list = "list"


class PositionPrecision(Enum):
    """`float32` keeps positions exact; `reference` rounds where the published code does."""

    float32 = "float32"
    reference = "reference"


@dataclass
class ModelConfig:
    """The OLMo-2 backbone."""

    vocab_size: int = 100352  # rows of the embedding and of the head: the tokenizer's 100278, padded
    hidden_size: int = 2048  # width d of the residual stream
    intermediate_size: int = 8192  # width of the SwiGLU
    num_layers: int = 16  # blocks
    num_heads: int = 16  # query heads
    num_kv_heads: int | None = None  # key and value heads; null: as many as query heads
    rope_theta: float = 500000.0  # base of the rotation frequencies
    rms_norm_eps: float = 1e-6  # added to the mean square
    initializer_range: float = 0.02  # standard deviation of fresh matrices
    initializer_cutoff: float = 3.0  # where that normal is cut, in standard deviations
    eos_token_id: int = 100257  # ends every document
    pad_token_id: int = 100277  # never trained on; kept for export
    attention: AttentionBackend = AttentionBackend.auto  # who computes attention
    activation_checkpointing: bool = False  # keep one tensor per block and recompute the rest in the backward pass
    loss_chunk_rows: int = 4096  # rows of logits alive at once: 1.6 GB of float32 at the full vocabulary

    @property
    def key_value_heads(self) -> int:
        """`num_kv_heads`, or `num_heads` where that is null."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_heads

    def validate(self) -> None:
        """Raises ModelError, naming the key, its value and the remedy, unless a model of these sizes can be built."""
        for key in ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "loss_chunk_rows"):
            _require(getattr(self, key) >= 1, f"model.{key} is {getattr(self, key)}; it must be 1 or more")
        for key in ("rope_theta", "rms_norm_eps", "initializer_range", "initializer_cutoff"):
            _require(getattr(self, key) > 0, f"model.{key} is {getattr(self, key)}; it must be above 0")
        _require(
            self.hidden_size % (2 * self.num_heads) == 0,
            f"model.num_heads is {self.num_heads}, which does not cut model.hidden_size {self.hidden_size} "
            f"into heads of an even width; choose a divisor of {self.hidden_size // 2}",
        )
        kv_heads = self.key_value_heads
        _require(
            kv_heads >= 1 and self.num_heads % kv_heads == 0,
            f"model.num_kv_heads is {kv_heads}; it must divide model.num_heads, which is {self.num_heads}",
        )
        for key in ("eos_token_id", "pad_token_id"):
            token = getattr(self, key)
            _require(
                0 <= token < self.vocab_size,
                f"model.{key} is {token}, outside the vocabulary of model.vocab_size {self.vocab_size}; "
                "lower the one or raise the other",
            )


@dataclass
class YarnConfig:
    """YaRN (arXiv 2309.00071): stretch slow rotations to reach contexts longer than those trained on."""

    factor: float = 4.0  # how many times longer; also sets the attention factor 0.1 ln(factor) + 1
    original_max_position: int = 4096  # context length of training
    beta_fast: float = 32.0  # pairs that turn more often than this over the original context keep their frequency
    beta_slow: float = 1.0  # pairs that turn less often than this are slowed by the whole factor

    def validate(self) -> None:
        """Raises ModelError, naming the key, its value and the remedy, unless a table can be made of these."""
        _require(self.factor >= 1, f"positions.yarn.factor is {self.factor}; it must be 1 or more")
        _require(
            self.original_max_position >= 1,
            f"positions.yarn.original_max_position is {self.original_max_position}; it must be 1 or more",
        )
        _require(
            self.beta_fast > self.beta_slow > 0,
            f"positions.yarn.beta_fast is {self.beta_fast} and beta_slow {self.beta_slow}; "
            "they must be above 0, the fast one the larger",
        )


@dataclass
class PositionsConfig:
    """Which layer gets which positions, and how exactly they are computed."""

    scheme: Scheme = Scheme.repo  # repo: RoPE below start_layer, RePo from there up; r2n1: two RoPE, one NoPE, repeated
    start_layer: int | None = None  # first RePo layer, from 0 (scheme repo); null: num_layers // 3, as published
    layers: list[PositionKind] | None = field(default=None)  # one kind per layer (scheme list)
    hidden_ratio: int = 8  # RePo's inner width is hidden_size // hidden_ratio
    precision: PositionPrecision = PositionPrecision.float32  # reference: round as the published code does
    yarn: YarnConfig | None = None  # frequencies for contexts beyond those trained on

    def validate(self) -> None:
        """Raises ModelError, naming the key, its value and the remedy, where these fields contradict each other."""
        scheme = self.scheme.name
        _require(self.hidden_ratio >= 1, f"positions.hidden_ratio is {self.hidden_ratio}; it must be 1 or more")
        _require(
            self.start_layer is None or self.scheme is Scheme.repo,
            f"positions.start_layer is {self.start_layer}, but only positions.scheme=repo has one and the scheme is "
            f"{scheme}; set it to null",
        )
        _require(
            (self.layers is not None) == (self.scheme is Scheme.list),
            f"positions.layers is {'null' if self.layers is None else 'set'} and positions.scheme is {scheme}; "
            "list the layers with scheme=list, and leave them null otherwise",
        )
        if self.yarn is not None:
            self.yarn.validate()


def layer_kinds(positions: PositionsConfig, num_layers: int) -> tuple[PositionKind, ...]:
    """The kind of positions of each layer, bottom first. Raises ModelError if the config does not fit `num_layers`."""
    positions.validate()
    rope, nope, repo = PositionKind.rope, PositionKind.nope, PositionKind.repo
    if positions.scheme is Scheme.list:
        layers = tuple(positions.layers or ())
        _require(
            len(layers) == num_layers,
            f"positions.layers lists {len(layers)} layers but model.num_layers is {num_layers}; list one each",
        )
        return layers
    if positions.scheme is Scheme.repo:
        start = num_layers // 3 if positions.start_layer is None else positions.start_layer
        _require(
            0 <= start < num_layers,
            f"positions.start_layer is {start} and model.num_layers is {num_layers}; choose 0 to {num_layers - 1}, "
            "or positions.scheme=rope for a model without RePo",
        )
        return (rope,) * start + (repo,) * (num_layers - start)
    period = {
        Scheme.rope: (rope,),
        Scheme.nope: (nope,),
        Scheme.r2n1: (rope, rope, nope),
        Scheme.n2r1: (nope, nope, rope),
    }[positions.scheme]
    return tuple(period[layer % len(period)] for layer in range(num_layers))


def map_width(positions: PositionsConfig, hidden_size: int) -> int:
    """RePo's inner width m. Raises ModelError if `positions.hidden_ratio` leaves none."""
    width = hidden_size // positions.hidden_ratio
    _require(
        width >= 1,
        f"positions.hidden_ratio is {positions.hidden_ratio}, above model.hidden_size {hidden_size}; lower it",
    )
    return width


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ModelError(message)
