"""The generator replica: generates the sounds of waiting requests in batches."""

import threading
from typing import Any

import numpy as np
import torch

from jobs.actors.finishing import Finishing
from jobs.actors.generator import MAX_BATCH_S
from jobs.generation.options import Options
from jobs.generation.recipes import recipe_of
from jobs.serving.dynamic_batcher import DynamicBatcher
from jobs.serving.model import open_model
from jobs.serving.sound_request import ModelInfo, SoundRequest
from soundstorm.audio.files import to_pcm16
from soundstorm.editing.edits import Edit, Inpainting, New, Variation
from soundstorm.errors import SoundStormError

GenerationResult = tuple[bytes, np.ndarray, dict[str, Any]] | str
"""The audio file, its samples and its recipe; or an error as a sentence."""


class _Cancelled(Exception):  # noqa: N818 - aborts a batch, not an error
    """All requests of a batch are cancelled."""


class GeneratorReplica:
    """Ray Serve deployment that generates sound with a model.

    Args:
        options: options of `generate` that name the files of the model.
        model_info: properties that the model must have.
        max_batch: maximum number of requests per batch.
        wait_s: seconds that a request waits for others if nothing is being generated.
        device: where the networks run.
    """

    def __init__(self, options: Options, model_info: ModelInfo, max_batch: int, wait_s: float, device: str) -> None:
        torch.set_num_threads(1)
        self._model = open_model(options, device)
        self._model.require(model_info)
        self._max_batch = max_batch
        self._cancelled = threading.Event()
        for module in self._model.editor.model.modules():  # so that a batch can be aborted within a clip
            module.register_forward_pre_hook(self._check_cancelled)
        self._batches: DynamicBatcher[SoundRequest, GenerationResult] = DynamicBatcher(
            self._generate, self._max_batch_size, wait_s
        )

    async def generate(self, request: SoundRequest) -> GenerationResult:
        """Generate the sound of a request."""
        return await self._batches.result(request.group, request)

    def _max_batch_size(self, request: SoundRequest) -> int:
        duration_s = request.num_samples / self._model.codec.sample_rate
        return max(1, min(self._max_batch, int(MAX_BATCH_S / duration_s)))

    def _check_cancelled(self, module: torch.nn.Module, arguments: Any) -> None:
        if self._cancelled.is_set():
            raise _Cancelled

    def _generate(self, requests: list[SoundRequest], cancelled: threading.Event) -> list[GenerationResult]:
        """Generate the sounds of requests of one group."""
        self._cancelled = cancelled
        first = requests[0]
        labels, seeds = [request.label for request in requests], [request.take_seed for request in requests]
        try:
            edit = self._edit(first)
            waveforms = edit.takes(self._model.editor, labels, seeds, first.num_samples)
        except SoundStormError as error:
            return [str(error)] * len(requests)
        except _Cancelled:
            return ["the request was cancelled"] * len(requests)
        finally:
            self._cancelled = threading.Event()
        return [
            self._finish(request, edit, waveform, len(requests))
            for request, waveform in zip(requests, waveforms, strict=True)
        ]

    def _edit(self, request: SoundRequest) -> Edit:
        loop = request.options.loop
        match request.kind, request.recording_N:
            case "new", _:
                return New(loop=loop)
            case "prompt", np.ndarray() as waveform_N:
                return New(prompt_QT=self._model.codec.encode_clips([waveform_N])[0])
            case "inpaint", np.ndarray() as recording_N:
                return Inpainting(
                    recording_N=recording_N, spans=request.spans, loop=loop, second_try=request.options.second_try
                )
            case "vary", np.ndarray() as recording_N:
                strength, kept_levels = request.options.strength, request.options.kept_levels
                assert strength is not None and kept_levels is not None
                return Variation(recording_N=recording_N, strength=strength, kept_levels=kept_levels, loop=loop)
        raise AssertionError(f"a request of kind {request.kind} without a recording")

    def _finish(self, request: SoundRequest, edit: Edit, waveform: np.ndarray, batch_size: int) -> GenerationResult:
        model = self._model.request
        finishing = Finishing(
            sample_rate=self._model.codec.sample_rate,
            hop=self._model.codec.hop,
            num_samples=request.num_samples,
            format=request.options.format,
            keeps_recording=edit.keeps_recording,
            precision=self._model.editor.precision,
            recipe=recipe_of(
                request.options,
                checkpoint_sha256=model.checkpoint.sha256,
                codec=self._model.codec,
                reranker=model.reranker,
                sampler=model.sampler,
                parents=[parent.to_dict() for parent in request.parents],
                precision=self._model.editor.precision,
            ),
        )
        category = model.checkpoint.categories[request.label]
        try:
            row, audio = finishing.clip(0, request.label, category, request.take_seed, waveform)
        except SoundStormError as error:
            return str(error)
        return audio, to_pcm16(finishing.sound(0, waveform)), finishing.about(row | {"batch_size": batch_size})
