"""The settings of a model: plain dataclasses, fit to be structured configs, importable without torch.

The defaults are OLMo-2 1B with RePo where the paper puts it (arXiv 2512.14391). Which layer gets which positions is
decided in `model/positions`.
"""

from dataclasses import dataclass, field
from enum import Enum

from model.errors import require


class Kernel(Enum):
    """What normalises and rotates queries and keys on a GPU; `auto` is resolved where it first runs."""

    auto = "auto"
    triton = "triton"
    torch = "torch"


class AttentionBackend(Enum):
    """The implementation of attention; `auto` is resolved once, when the model is built."""

    auto = "auto"
    flash_attn = "flash_attn"
    sdpa = "sdpa"
    plain = "plain"


class PositionPrecision(Enum):
    """The arithmetic of positions: `float32`, or `reference`, which rounds where the published code does."""

    float32 = "float32"
    reference = "reference"


class NormPrecision(Enum):
    """The arithmetic of RMSNorm: `float32`, or `reference`, which rounds where the published trainer does."""

    float32 = "float32"
    reference = "reference"


@dataclass
class ModelConfig:
    """The OLMo-2 backbone."""

    vocab_size: int = 100352
    """Rows of the embedding and of the head: the tokenizer's 100,278, padded."""
    hidden_size: int = 2048
    """Width d of the residual stream."""
    intermediate_size: int = 8192
    """Width of the SwiGLU."""
    num_layers: int = 16
    """Number of blocks."""
    num_heads: int = 16
    """Number of query heads."""
    num_kv_heads: int | None = None
    """Number of key and value heads; null: as many as query heads."""
    rope_theta: float = 500000.0
    """Base of the rotation frequencies."""
    rms_norm_eps: float = 1e-6
    """Added to the mean square in RMSNorm."""
    norm_precision: NormPrecision = NormPrecision.float32
    """float32: RMSNorm rounds once, after its weight; reference: before its weight too, as the published trainer."""
    initializer_range: float = 0.02
    """Standard deviation of fresh matrices."""
    initializer_cutoff: float = 3.0
    """Where that normal distribution is cut off, in standard deviations."""
    eos_token_id: int = 100257
    """Token that ends every document."""
    other_eos_token_ids: list[int] = field(default_factory=list)
    """Further tokens at which generating stops, as chat models have them; kept for export."""
    pad_token_id: int = 100277
    """Padding token; never trained on, kept for export."""
    attention: AttentionBackend = AttentionBackend.auto
    """Implementation of attention: auto, sdpa, flash_attn or plain."""
    kernel: Kernel = Kernel.auto
    """Norm and rotation of queries and keys on a GPU: triton (one kernel), torch, or auto: triton where it works."""
    activation_checkpointing: bool = False
    """Keep one tensor per block and recompute the rest in the backward pass."""
    compile: bool | str = "auto"
    """Compile the blocks for training: true, false, or auto, which is true on a GPU unless ZeRO 3 is used."""
    loss_chunk_rows: int = 4096
    """Rows (tokens) of logits in memory at once: 1.6 GB of float32 at the full vocabulary."""

    @property
    def key_value_heads(self) -> int:
        """`num_kv_heads`, or `num_heads` where that is null."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def eos_token_ids(self) -> list[int]:
        """All tokens at which generating stops, `eos_token_id` first."""
        return [self.eos_token_id, *self.other_eos_token_ids]

    @property
    def head_dim(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.num_heads

    def validate(self) -> None:
        """Raises ModelError, naming the key, its value and the remedy, unless a model of these sizes can be built."""
        for key in ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "loss_chunk_rows"):
            require(getattr(self, key) >= 1, f"model.{key} is {getattr(self, key)}; it must be 1 or more")
        for key in ("rope_theta", "rms_norm_eps", "initializer_range", "initializer_cutoff"):
            require(getattr(self, key) > 0, f"model.{key} is {getattr(self, key)}; it must be above 0")
        require(
            self.hidden_size % (2 * self.num_heads) == 0,
            f"model.num_heads is {self.num_heads}, which does not cut model.hidden_size {self.hidden_size} "
            f"into heads of an even width; choose a divisor of {self.hidden_size // 2}",
        )
        require(
            self.compile in (True, False, "auto"),
            f"model.compile is {self.compile}; it must be true, false or auto",
        )
        kv_heads = self.key_value_heads
        require(
            kv_heads >= 1 and self.num_heads % kv_heads == 0,
            f"model.num_kv_heads is {kv_heads}; it must divide model.num_heads, which is {self.num_heads}",
        )
        tokens = [("eos_token_id", self.eos_token_id), ("pad_token_id", self.pad_token_id)]
        for key, token in (*tokens, *(("other_eos_token_ids", token) for token in self.other_eos_token_ids)):
            require(
                0 <= token < self.vocab_size,
                f"model.{key} is {token}, outside the vocabulary of model.vocab_size {self.vocab_size}; "
                "lower the one or raise the other",
            )


@dataclass
class YarnConfig:
    """YaRN (arXiv 2309.00071): slows the slow rotations to reach contexts longer than those trained on."""

    factor: float = 4.0
    """How many times longer the context becomes; also sets the attention factor 0.1 ln(factor) + 1."""
    original_max_position: int = 4096
    """Context length of training, in tokens."""
    beta_fast: float = 32.0
    """Pairs that make more turns than this over the original context keep their frequency."""
    beta_slow: float = 1.0
    """Pairs that make fewer turns than this over the original context are slowed by the whole factor."""

    def validate(self) -> None:
        """Raises ModelError, naming the key, its value and the remedy, unless frequencies can be made of these."""
        require(self.factor >= 1, f"positions.yarn.factor is {self.factor}; it must be 1 or more")
        require(
            self.original_max_position >= 1,
            f"positions.yarn.original_max_position is {self.original_max_position}; it must be 1 or more",
        )
        require(
            self.beta_fast > self.beta_slow > 0,
            f"positions.yarn.beta_fast is {self.beta_fast} and beta_slow {self.beta_slow}; "
            "they must be above 0, the fast one the larger",
        )


@dataclass
class PositionsConfig:
    """Which layer gets which positions, and how exactly they are computed."""

    scheme: str = "repo"
    """A position scheme, a pattern of schemes, or list (see layers); the error for an unknown name lists all names."""
    start_layer: int | None = None
    """First layer, from 0, of a scheme that does not begin at the bottom; null: num_layers // 3, as published."""
    layers: list[str] | None = None
    """One position scheme per layer, bottom first (scheme list)."""
    hidden_divisor: int = 8
    """The inner width of RePo's maps is hidden_size // hidden_divisor (old name: hidden_ratio)."""
    precision: PositionPrecision = PositionPrecision.float32
    """float32 keeps positions exact; reference rounds where the published code does."""
    yarn: YarnConfig | None = None
    """Frequencies for contexts beyond those trained on; null: those of the backbone."""

    def validate(self) -> None:
        """Raises ModelError, naming the key, its value and the remedy, if a number is out of range.

        `model.positions.layer_schemes` checks the rest: whether schemes exist, and whether they fit the layers.
        """
        require(self.hidden_divisor >= 1, f"positions.hidden_divisor is {self.hidden_divisor}; it must be 1 or more")
        if self.yarn is not None:
            self.yarn.validate()
