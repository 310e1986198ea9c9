"""A global conditioning vector of a clip, its timbre, in addition to the class, so that all parts of a generated clip
sound like one recording.

Distant places are decided at the same time, and neither contains much information about the other. Conditioned on the
same timbre, they agree. The timbre of a clip is computed from the sums of its codes' centroids: their mean and standard
deviation over the places, reduced to the principal components of the training clips. For generation, a timbre is
sampled for the class from a smoothed bootstrap of the training clips' timbres (Silverman and Young, Biometrika 74(3),
1987), which preserves the mean and variance of the class for any amount of smoothing.

Legend: B batch, T places, L size of a centroid, F features (2 L), S size of a timbre, E stored timbres, D width, N
clips.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from soundstorm.model.centroids import Centroids
from soundstorm.model.config import ModelConfig
from soundstorm.model.starting_weights import start_projection

MAX_ENTRIES = 64
"""Maximum number of stored timbres per class."""
MIN_DEVIATION = 1e-4
FIRST_SCALE = 0.5
"""Standard deviation of the conditioning at initialization."""


class Timbre(nn.Module):
    """Principal components, stored timbres of training clips to sample from, and the projection of a timbre to the
    network's width.

    A timbre is a row of S numbers of variance 1 over the training clips; a row of NaN means that it is unknown.
    """

    mean_F: Tensor
    basis_FS: Tensor
    spread_S: Tensor
    entries_ES: Tensor
    entry_label_E: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, num_entries, features = config.timbre_dim, config.timbre_entries, 2 * config.centroid_dim
        self.register_buffer("mean_F", torch.zeros(features))
        self.register_buffer("basis_FS", torch.zeros(features, size))
        self.register_buffer("spread_S", torch.ones(size))
        self.register_buffer("entries_ES", torch.zeros(num_entries, size))
        self.register_buffer("entry_label_E", torch.zeros(num_entries))
        self.take_in = nn.Linear(size, config.width)
        self.unknown = nn.Parameter(torch.zeros(config.width))

    def initialize(self) -> None:
        start_projection(self.take_in.weight, self.take_in.in_features, FIRST_SCALE)
        nn.init.normal_(self.unknown, std=FIRST_SCALE)

    def forward(self, timbre_BS: Tensor | None) -> Tensor:
        """The conditioning that is added to every place, (B, D), or (D) for clips of unknown timbre."""
        if timbre_BS is None:
            return self.unknown
        known_B1 = ~timbre_BS.isnan().any(1, keepdim=True)
        return torch.where(known_B1, self.take_in(timbre_BS.nan_to_num()), self.unknown)

    def of(self, sums_BTL: Tensor, valid_BT: Tensor) -> Tensor:
        """Timbres (B, S) of clips, from the sums of their centroids at the places where `valid_BT` is True."""
        return (clip_features(sums_BTL, valid_BT) - self.mean_F) @ self.basis_FS

    def blurred(self, timbre_BS: Tensor, share: float, normal_BS: Tensor) -> Tensor:
        """Timbres with added noise, `share` of the standard deviation within a class, so that the network also learns
        timbres between those of the training clips."""
        return timbre_BS + share * self.spread_S * normal_BS

    def draw(self, label_B: Tensor, generators: Sequence[torch.Generator], spread: float) -> Tensor:
        """Sample a timbre (B, S) for each class, with each sample's own generator.

        Args:
            label_B: classes; for a class without stored timbres, such as "no class", those of all classes are used.
            generators: one per sample, on the CPU.
            spread: smoothing: 0 samples the training clips' own timbres, 1 a normal distribution with the class's mean
                and standard deviations.
        """
        rows = []
        for label, generator in zip(label_B.tolist(), generators, strict=True):
            of_class_ES = self.entries_ES[self.entry_label_E == label].cpu()
            entries_ES = of_class_ES if len(of_class_ES) else self.entries_ES.cpu()
            chosen_S = entries_ES[int(torch.rand((), generator=generator, dtype=torch.float64) * len(entries_ES))]
            normal_S = torch.randn(entries_ES.shape[1], generator=generator, dtype=torch.float64)
            mean_S, deviation_S = entries_ES.mean(0), entries_ES.std(0, correction=0)
            rows.append(mean_S + (1 - spread**2) ** 0.5 * (chosen_S - mean_S) + spread * deviation_S * normal_S.float())
        return torch.stack(rows).to(self.mean_F.device)


def clip_features(sums_BTL: Tensor, valid_BT: Tensor) -> Tensor:
    """Mean and standard deviation (B, F) over the valid places."""
    weight_BT1 = (valid_BT / valid_BT.sum(1, keepdim=True)).to(sums_BTL.dtype)[..., None]
    mean_BL = (sums_BTL * weight_BT1).sum(1)
    variance_BL = ((sums_BTL - mean_BL[:, None]).square() * weight_BT1).sum(1)
    return torch.cat((mean_BL, variance_BL.clamp(min=0).sqrt()), 1)


def num_entries(labels: Sequence[int]) -> int:
    """Number of timbres that are stored for training clips of these classes."""
    return sum(min(MAX_ENTRIES, count) for count in np.unique(np.asarray(labels), return_counts=True)[1].tolist())


def timbre_weights(
    timbre: Timbre | None,
    centroids: Centroids,
    config: ModelConfig,
    views: Sequence[Sequence[np.ndarray]],
    labels: Sequence[int],
) -> dict[str, Tensor]:
    """Initial values of the tensors of a network with timbres, by name.

    Args:
        timbre: of the network that the training is initialized from, whose components are kept; None: they are fitted
            to the clips.
        centroids: of the network.
        config: of the network.
        views: codes (levels, T) of the views of each training clip, the original recording first.
        labels: label of each clip.
    """
    features_NF, recorded = _features(centroids, config.num_levels, views)
    if timbre is None:
        mean_F, basis_FS = _principal_components(features_NF, config.timbre_dim)
    else:
        mean_F, basis_FS = timbre.mean_F, timbre.basis_FS
    timbre_NS = (features_NF[recorded] - mean_F) @ basis_FS
    label_N = torch.tensor(labels)
    centred_NS, entries, entry_labels = torch.empty_like(timbre_NS), [], []
    for label in label_N.unique().tolist():
        of_class_NS = timbre_NS[label_N == label]
        centred_NS[label_N == label] = of_class_NS - of_class_NS.mean(0)
        count = min(MAX_ENTRIES, len(of_class_NS))
        entries.append(of_class_NS[torch.arange(count) * len(of_class_NS) // count])
        entry_labels += [float(label)] * count
    fitted = {
        "mean_F": mean_F,
        "basis_FS": basis_FS,
        "spread_S": centred_NS.square().mean(0).sqrt(),
        "entries_ES": torch.cat(entries),
        "entry_label_E": torch.tensor(entry_labels),
    }
    return {f"timbre.{name}": value for name, value in fitted.items()}


def _features(centroids: Centroids, num_levels: int, views: Sequence[Sequence[np.ndarray]]) -> tuple[Tensor, list[int]]:
    """Features (N, F) of all views, and the indices of the original recordings."""
    rows: list[Tensor] = []
    recorded = []
    for of_clip in views:
        recorded.append(len(rows))
        for codes_QT in of_clip:
            sums_1TL = centroids.sums(torch.from_numpy(codes_QT[:num_levels].T.astype(np.int64)))[None]
            rows.append(clip_features(sums_1TL, torch.ones(sums_1TL.shape[:2], dtype=torch.bool))[0])
    return torch.stack(rows), recorded


def _principal_components(features_NF: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The mean, and the first `size` principal components, each divided by its standard deviation; zeros if there are
    fewer."""
    mean_F = features_NF.double().mean(0)
    _, singular_K, basis_KF = torch.linalg.svd(features_NF.double() - mean_F, full_matrices=False)
    deviation_K = singular_K / len(features_NF) ** 0.5
    scaled_KF = torch.where(
        deviation_K[:, None] > MIN_DEVIATION, basis_KF / deviation_K[:, None].clamp(min=MIN_DEVIATION), 0.0
    )[:size]
    basis_FS = torch.zeros(features_NF.shape[1], size, dtype=torch.float64)
    basis_FS[:, : len(scaled_KF)] = scaled_KF.T
    return mean_F.float(), basis_FS.float()
