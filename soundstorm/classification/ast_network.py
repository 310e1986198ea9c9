"""The network of the Audio Spectrogram Transformer (AST, Gong et al., arXiv 2104.01778), as implemented in the library
`transformers` (extra `ast`).

This module can be imported without that library. Weights have the names of the published file,
`MIT/ast-finetuned-audioset-10-10-0.4593`, whichever version of the library reads or writes them.

Legend: B batch, T frames, M mel bands, P patches with the two tokens before them, D width, C categories; of a grid of
patches, F rows (bands) and T columns (time).
"""

import importlib
import json
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Interval
from pydantic.dataclasses import dataclass
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from soundstorm.audio.files import SAMPLE_RATE
from soundstorm.errors import SoundStormError
from soundstorm.serialization.damaged import refusing_damaged
from soundstorm.serialization.state_dicts import check_state_dict
from soundstorm.serialization.without_memory import without_memory
from soundstorm.settings import Positive, Settings

AST_RATE = 16_000
"""Sample rate of the AST's input."""
FRAME, HOP = 400, 160
"""Samples per frame of its features (25 ms), and between frames (10 ms)."""
Patch = Annotated[int, Interval(ge=1, le=1_024)]
Size = Annotated[int, Interval(ge=1, le=65_536)]
HEAD = "classifier."
HEAD_NAMES = tuple(f"{HEAD}{part}.{kind}" for part in ("layernorm", "dense") for kind in ("weight", "bias"))
POSITIONS = "audio_spectrogram_transformer.embeddings.position_embeddings"
NEWER_NAMES = (
    ("transformer.layers.", "transformer.encoder.layer."),
    ("attention.q_proj.", "attention.attention.query."),
    ("attention.k_proj.", "attention.attention.key."),
    ("attention.v_proj.", "attention.attention.value."),
    ("attention.o_proj.", "attention.output.dense."),
    ("mlp.fc1.", "intermediate.dense."),
    ("mlp.fc2.", "output.dense."),
)
"""Names of parts of the network in later versions of `transformers`, and in the published file."""


@dataclass(kw_only=True, frozen=True)
class AstConfig(Settings):
    """Architecture of an AST, and the normalization of its features; the defaults are the published ones."""

    NAMED: ClassVar[str] = "AST setting {name}"
    REMEDY: ClassVar[str] = "give"

    hidden_size: Annotated[int, Interval(ge=1, le=8_192)] = 768
    num_hidden_layers: Annotated[int, Interval(ge=1, le=256)] = 12
    num_attention_heads: Annotated[int, Interval(ge=1, le=256)] = 12
    intermediate_size: Size = 3072
    patch_size: Patch = 16
    """Mel bands and frames per patch."""
    frequency_stride: Patch = 10
    """Mel bands between patches."""
    time_stride: Patch = 10
    """Frames between patches."""
    max_length: Size = 1024
    """Input length in frames of 10 ms: a shorter clip is padded with silence, a longer one is divided into windows."""
    num_mel_bins: Patch = 128
    layer_norm_eps: Positive = 1e-12
    qkv_bias: bool = True
    mean: float = -4.2677393
    """Mean of the features in its training."""
    std: Positive = 4.5689974
    """Standard deviation of the features; they are divided by twice that."""

    def __post_init__(self) -> None:
        divides = self.hidden_size % self.num_attention_heads == 0
        self.check(divides, "num_attention_heads", f"a divisor of hidden_size {self.hidden_size}")
        fits = self.patch_size <= min(self.max_length, self.num_mel_bins)
        self.check(fits, "patch_size", "at most max_length and num_mel_bins")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows (bands) and columns (time) of patches."""
        return (
            (self.num_mel_bins - self.patch_size) // self.frequency_stride + 1,
            (self.max_length - self.patch_size) // self.time_stride + 1,
        )

    @property
    def longest(self) -> int:
        """Input length in samples at 24 kHz."""
        return (FRAME + (self.max_length - 1) * HOP) * SAMPLE_RATE // AST_RATE


class AstClassifier(nn.Module):
    """An AST with a head for other categories; raises SoundStormError if `transformers` is not installed."""

    def __init__(self, num_categories: int, config: AstConfig) -> None:
        super().__init__()
        library = require_transformers()
        self.num_categories, self.config = num_categories, config
        architecture = {name: value for name, value in config.to_dict().items() if name not in ("mean", "std")}
        self.network = library.ASTForAudioClassification(library.ASTConfig(**architecture, num_labels=num_categories))

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def pooled(self, features_BTM: Tensor) -> Tensor:
        """Input of the head (B, D), the mean of the two tokens, for features of `max_length` frames."""
        pooled_BD: Tensor = self.network.audio_spectrogram_transformer(features_BTM).pooler_output
        return pooled_BD

    def score(self, pooled_BD: Tensor) -> Tensor:
        """Logits (B, C)."""
        scores_BC: Tensor = self.network.classifier(pooled_BD)
        return scores_BC

    def forward(self, features_BTM: Tensor) -> Tensor:
        """Logits (B, C) for features of `max_length` frames."""
        return self.score(self.pooled(features_BTM))

    def weights(self) -> dict[str, Tensor]:
        """All parameters under their published names."""
        return {published_name(name): value for name, value in self.network.state_dict().items()}

    def load_published_weights(self, weights: dict[str, Tensor]) -> None:
        """Load weights with their published names; those of the head may be absent and are then unchanged."""
        self.network.load_state_dict(_named_as(self.network.state_dict(), weights), strict=False)


def require_transformers() -> Any:
    """The library `transformers`; raises SoundStormError if it is not installed.

    The module of the AST, which it would import at the first use, is imported here: if that use were on the meta
    device, constants of torchaudio would be created there, without values.
    """
    try:
        library = importlib.import_module("transformers")
    except ImportError as error:
        raise SoundStormError("the AST needs the library transformers: pip install 'soundstorm-env[ast]'") from error
    importlib.import_module("transformers.models.audio_spectrogram_transformer.modeling_audio_spectrogram_transformer")
    return library


# ---- weights


def published_name(name: str) -> str:
    """Name of a parameter in the published file, from its name in any version of `transformers`."""
    for newer, published in NEWER_NAMES:
        name = name.replace(newer, published)
    return name


def _named_as(names: Iterable[str], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename `weights` to the equivalent ones of `names`; others keep their names."""
    own = {published_name(name): name for name in names}
    return {own.get(published_name(name), name): value for name, value in weights.items()}


def require_named(
    num_categories: int, config: AstConfig, weights: dict[str, Tensor], optional: tuple[str, ...] = ()
) -> None:
    """Raise ValueError unless `weights` are those of an AST, before memory is allocated for it; see
    `check_state_dict`."""
    require_transformers()
    with without_memory():
        network = AstClassifier(num_categories, config).network
    check_state_dict(lambda: network, _named_as(network.state_dict(), weights), optional)


def fitted_positions(positions_1PD: Tensor, have: AstConfig, want: AstConfig) -> Tensor:
    """Position embeddings for another input size: cut from the middle if it has fewer patches, otherwise interpolated,
    as published."""
    tokens_12D, grid_1PD = positions_1PD[:, :2], positions_1PD[:, 2:]
    grid_1DFT = grid_1PD.reshape(1, *have.grid, -1).permute(0, 3, 1, 2)
    rows, columns = want.grid
    start_row, start_column = (max(0, (old - new) // 2) for old, new in zip(have.grid, want.grid, strict=True))
    grid_1DFT = grid_1DFT[:, :, start_row : start_row + rows, start_column : start_column + columns]
    if grid_1DFT.shape[2:] != want.grid:
        grid_1DFT = F.interpolate(grid_1DFT, want.grid, mode="bilinear", align_corners=False)
    return torch.cat([tokens_12D, grid_1DFT.flatten(2).transpose(1, 2)], 1)


def pretrained_ast(
    num_categories: int, weights: bytes, config: AstConfig, max_length: int, where: str
) -> AstClassifier:
    """An AST with published or other pretrained weights, a new head, and an input of `max_length` frames.

    Args:
        num_categories: outputs of the new head.
        weights: content of a safetensors file.
        config: its architecture.
        max_length: input length in frames of 10 ms.
        where: name of the weights' source in errors.

    Raises:
        SoundStormError: the weights are damaged, or not of this architecture; or `transformers` is not installed.
    """
    require_transformers()
    with refusing_damaged(where, "weights of this AST", "give its config.json and model.safetensors"):
        tensors = {
            name: value.float() for name, value in load_safetensors(weights).items() if not name.startswith(HEAD)
        }
        require_named(1, config, tensors, optional=HEAD_NAMES)
    wanted = replace(config, max_length=max_length)
    model = AstClassifier(num_categories, wanted)
    positions = fitted_positions(tensors[POSITIONS], config, wanted)
    model.load_published_weights(tensors | {POSITIONS: positions})
    return model


def read_ast_config(config: bytes, preprocessor: bytes | None, where: str) -> AstConfig:
    """The architecture from a `config.json` of `transformers`, and the normalization of features from its
    `preprocessor_config.json`, if there is one.

    Raises:
        SoundStormError: it is not the configuration of an AST, or of an unsupported one.
    """
    names = {field.name for field in fields(AstConfig)}
    found: dict[str, Any] = {}
    for content, keys in ((config, names - {"mean", "std"}), (preprocessor, {"mean", "std"})):
        try:
            values = json.loads(content) if content is not None else {}
        except (ValueError, RecursionError) as error:
            raise SoundStormError(f"{where}: config.json or preprocessor_config.json is not valid JSON") from error
        if not isinstance(values, dict):
            raise SoundStormError(f"{where}: config.json or preprocessor_config.json is not a JSON object")
        if content is config and values.get("model_type") != "audio-spectrogram-transformer":
            raise SoundStormError(
                f"{where}: config.json is of model_type {values.get('model_type')!r}: give that of an "
                "audio-spectrogram-transformer"
            )
        if values.get("hidden_act", "gelu") != "gelu":
            raise SoundStormError(f"{where}: config.json has hidden_act {values['hidden_act']!r}: only 'gelu' is known")
        found |= {key: values[key] for key in keys & values.keys()}
    return AstConfig.from_dict(found, where)
