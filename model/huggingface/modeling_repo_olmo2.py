# Copyright 2026 The authors of repo-cpt. Copyright 2024 The HuggingFace Team: the attention interface and the outline
# of the classes follow transformers' models/olmo2/modeling_olmo2.py.
#
# Licensed under the Apache License, Version 2.0: http://www.apache.org/licenses/LICENSE-2.0. Distributed on an "AS IS"
# BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
"""OLMo-2 with positions of its own in each layer: RePo (arXiv 2512.14391), residual, RoPE or NoPE.

For transformers 5.16 to 5.23.

This file, arithmetic_repo_olmo2.py and schemes_repo_olmo2.py are copied into every exported folder and are all that
transformers, vLLM and lm-eval need: load the folder with `trust_remote_code=True`. They import nothing but PyTorch,
NumPy and transformers.

    z = W_z (silu(W_g h) * W_c h)

is the position of a token in a RePo layer, one per key-value head; h is the input of the layer, before any norm. In a
residual layer it is the deviation of the position from the token's index. q and k are rotated before k enters the
cache, so a cache needs no positions. `output_positions=True` returns z of every such layer in `outputs.positions`, and
the numbers of these layers in `outputs.position_layers`.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, Olmo2Config, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import DynamicCache
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .arithmetic_repo_olmo2 import RepoMap, RepoRMSNorm, RepoRotation, rotate
from .schemes_repo_olmo2 import SCHEMES

PRECISIONS = ("float32", "reference")


class RepoOlmo2Config(Olmo2Config):
    """Configuration of OLMo-2 with a position scheme for each layer."""

    model_type = "repo_olmo2"
    base_model_tp_plan = None  # type: ignore[assignment]  # no tensor or pipeline parallel runs
    base_model_pp_plan = None  # type: ignore[assignment]

    layer_positions: list[str] | None = None
    """The scheme of each layer, bottom first; None: RePo from a third of the depth up, as published."""
    repo_width: int | None = None
    """Inner width of RePo's maps; None: hidden_size // 8."""
    position_precision: str = "float32"
    """`reference` rounds positions to the dtype of the model, as the published code does."""
    norm_precision: str = "float32"
    """`reference` rounds x / rms(x) before its weight too, as the published trainer does."""

    def __post_init__(self, **kwargs: Any) -> None:
        """Fills what was left out. Raises ValueError for what this file does not compute."""
        super().__post_init__(**kwargs)
        if self.layer_positions is None:
            start = self.num_hidden_layers // 3
            self.layer_positions = ["rope"] * start + ["repo"] * (self.num_hidden_layers - start)
        if self.repo_width is None:
            self.repo_width = max(self.hidden_size // 8, 1)
        if unknown := [name for name in self.layer_positions if name not in SCHEMES]:
            raise ValueError(f"layer_positions names {unknown[0]!r}; this code knows {', '.join(SCHEMES)}")
        for key in ("position_precision", "norm_precision"):
            if getattr(self, key) not in PRECISIONS:
                raise ValueError(f"{key} is {getattr(self, key)!r}; choose one of {', '.join(PRECISIONS)}")

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Returns the configuration that a config.json holds. Raises ValueError if it does not name the positions."""
        if config_dict.get("layer_positions") is None:
            raise ValueError("config.json has no layer_positions: it must list the position scheme of each layer")
        return super().from_dict(config_dict, **kwargs)


@dataclass
class RepoModelOutput(BaseModelOutputWithPast):
    """Hidden states, and the learned positions where they were asked for."""

    positions: tuple[Tensor, ...] | None = None
    """z [B, T, H_kv] of each layer that learns positions, float32."""
    position_layers: tuple[int, ...] | None = None
    """The layers, from 0, that `positions` belong to."""


@dataclass
class RepoCausalLMOutput(CausalLMOutputWithPast):
    """Logits, and the learned positions where they were asked for."""

    positions: tuple[Tensor, ...] | None = None
    """z [B, T, H_kv] of each layer that learns positions, float32."""
    position_layers: tuple[int, ...] | None = None
    """The layers, from 0, that `positions` belong to."""


def eager_attention_forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Returns attention without a fused kernel, [B, T, H, D], and its weights."""
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)
    value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = F.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class RepoAttention(nn.Module):
    """Causal attention; q and k are normalised over their full width, and rotated by the positions of the layer."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = True
        self.scheme = config.layer_positions[layer_idx]
        width, kv_width = config.hidden_size, config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(width, width, bias=config.attention_bias)
        self.k_proj = nn.Linear(width, kv_width, bias=config.attention_bias)
        self.v_proj = nn.Linear(width, kv_width, bias=config.attention_bias)
        self.o_proj = nn.Linear(width, width, bias=config.attention_bias)
        rounds = config.norm_precision == "reference"
        self.q_norm = RepoRMSNorm(width, config.rms_norm_eps, rounds)
        self.k_norm = RepoRMSNorm(kv_width, config.rms_norm_eps, rounds)
        is_exact, scheme = config.position_precision == "float32", SCHEMES[self.scheme]
        self.map_names = {name: owned for name, (owned, *_) in scheme.maps(config).items()}
        for name, (owned, num_outputs, num_inputs) in scheme.maps(config).items():
            self.add_module(owned, RepoMap(num_inputs, num_outputs, is_exact, starts_at_zero=name in scheme.zero_maps))

    def positions_of(self, hidden_states: Tensor, index: Tensor) -> Tensor | None:
        """Returns positions [B, T, H_kv or 1], or None for no rotation. `index` is [B, T, 1]."""
        scheme = SCHEMES[self.scheme]
        if scheme.positions is None:
            return index if scheme.is_rotated else None
        if not scheme.is_learned:  # those of all tokens so far, of which the index takes some
            rows = hidden_states[:1, :1].expand(1, int(index.max()) + 1, -1)
            of_all = scheme.positions(rows, {})
            return None if of_all is None else of_all.reshape(rows.shape[1], -1)[index.squeeze(-1)]
        found = scheme.positions(hidden_states, {name: getattr(self, owned) for name, owned in self.map_names.items()})
        if found is not None and found.ndim == 1:
            found = found[None, :, None].expand(*hidden_states.shape[:2], self.config.num_key_value_heads)
        return found

    def forward(
        self,
        hidden_states: Tensor,
        rotation: RepoRotation,
        index_rotation: tuple[Tensor, Tensor] | None,
        index: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Returns the output [B, T, d], the weights if the implementation gives them, and z [B, T, H_kv] if learned."""
        shape = hidden_states.shape[:-1]
        query = self.q_norm(self.q_proj(hidden_states)).view(*shape, -1, self.head_dim)
        key = self.k_norm(self.k_proj(hidden_states)).view(*shape, -1, self.head_dim)
        value = self.v_proj(hidden_states).view(*shape, -1, self.head_dim)
        scheme, positions, cos_sin = SCHEMES[self.scheme], None, None
        if scheme.positions is not None:
            positions = self.positions_of(hidden_states, index)
            if positions is not None:
                cos_sin = rotation(positions, query.dtype, index if scheme.adds_index else None)
        elif scheme.is_rotated:
            cos_sin = index_rotation
        if cos_sin is not None:
            query, key = rotate(query, *cos_sin), rotate(key, *cos_sin)
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attention_interface = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attention_interface(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(output.reshape(*shape, -1)), weights, positions if scheme.is_learned else None


class RepoMLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act_fn = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """Returns [B, T, d]."""
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class RepoDecoderLayer(GradientCheckpointingLayer):
    """h + norm(attention(h)), then h + norm(mlp(h)); positions read h before any norm."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        super().__init__()
        rounds = config.norm_precision == "reference"
        self.self_attn = RepoAttention(config, layer_idx)
        self.mlp = RepoMLP(config)
        self.post_attention_layernorm = RepoRMSNorm(config.hidden_size, config.rms_norm_eps, rounds)
        self.post_feedforward_layernorm = RepoRMSNorm(config.hidden_size, config.rms_norm_eps, rounds)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """Returns the residual stream [B, T, d] after this layer."""
        attended = self.self_attn(hidden_states, **kwargs)[0]
        hidden_states = hidden_states + self.post_attention_layernorm(attended)
        return hidden_states + self.post_feedforward_layernorm(self.mlp(hidden_states))


class RepoOlmo2PreTrainedModel(PreTrainedModel):
    """What transformers asks of every model class."""

    config: RepoOlmo2Config
    config_class = RepoOlmo2Config
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["RepoDecoderLayer"]  # noqa: RUF012 - declared without ClassVar by the base class
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": RepoDecoderLayer,
        "attentions": OutputRecorder(RepoAttention, index=1),
        "positions": OutputRecorder(RepoAttention, index=2),
    }

    def _init_weights(self, module: Any) -> None:
        if isinstance(module, RepoRotation):
            init.copy_(module.turn_bits, torch.tensor(module.bits, dtype=torch.int64))
        elif isinstance(module, RepoMap):
            init.normal_(module.weight, mean=0.0, std=0.0 if module.starts_at_zero else self.config.initializer_range)
        else:
            super()._init_weights(module)


class RepoOlmo2Model(RepoOlmo2PreTrainedModel):
    """The layers without the head."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if len(config.layer_positions) != config.num_hidden_layers:
            raise ValueError(
                f"layer_positions lists {len(config.layer_positions)} layers, but num_hidden_layers is "
                f"{config.num_hidden_layers}; list one each"
            )
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(RepoDecoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = RepoRMSNorm(config.hidden_size, config.rms_norm_eps, config.norm_precision == "reference")
        self.rotation = RepoRotation(config)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> RepoModelOutput:
        """Returns the last hidden states [B, T, d], the cache, and what `output_...=True` asks for."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            num_seen = 0 if past_key_values is None else past_key_values.get_seq_length()
            position_ids = (torch.arange(inputs_embeds.shape[1], device=inputs_embeds.device) + num_seen).unsqueeze(0)
        causal_mask = create_causal_mask(
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        hidden_states = inputs_embeds
        index = position_ids.unsqueeze(-1)
        index_rotation = self.rotation(index, inputs_embeds.dtype)
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_states = layer(
                hidden_states,
                rotation=self.rotation,
                index_rotation=index_rotation,
                index=index,
                attention_mask=causal_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
        output = RepoModelOutput(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)
        if kwargs.get("output_positions"):
            schemes: Any = self.config.layer_positions
            output.position_layers = tuple(layer for layer, name in enumerate(schemes) if SCHEMES[name].is_learned)
        return output


class RepoOlmo2ForCausalLM(RepoOlmo2PreTrainedModel, GenerationMixin):
    """The language model."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model = RepoOlmo2Model(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> RepoCausalLMOutput:
        """Returns logits [B, T, V], the loss if there are labels, the cache, and what `output_...=True` asks for."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        logits = self.lm_head(_kept(outputs.last_hidden_state, logits_to_keep))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return RepoCausalLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            positions=outputs.positions,
            position_layers=outputs.position_layers,
        )


def _kept(hidden_states: Tensor, logits_to_keep: int | Tensor) -> Tensor:
    """Returns the states of the last tokens, or of those that a tensor names, for all rows or row by row."""
    if isinstance(logits_to_keep, int):
        return hidden_states[:, slice(-logits_to_keep, None)]
    if logits_to_keep.ndim == 1:
        return hidden_states[:, logits_to_keep]
    if logits_to_keep.dtype == torch.bool:
        return hidden_states[logits_to_keep]
    return hidden_states.take_along_dim(logits_to_keep.unsqueeze(-1), dim=1)
