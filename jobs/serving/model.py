"""The model that an endpoint serves, read and checked as in `generate`."""

from dataclasses import dataclass, field

from jobs.actors.generator import editor_of
from jobs.generation.options import Options
from jobs.generation.request import Request, request_of
from jobs.inputs.checkpoints import open_checkpoint
from jobs.serving.sound_request import ModelInfo
from soundstorm.codec.codec import Codec
from soundstorm.codec.files import load_codec
from soundstorm.editing.editor import Editor
from soundstorm.errors import SoundStormError


@dataclass(kw_only=True, frozen=True)
class ServedModel:
    """A checkpoint, its codec and its reranker, on a device."""

    request: Request = field(repr=False)
    """The request of `generate` with the files of the model."""
    editor: Editor = field(repr=False)
    codec: Codec = field(repr=False)
    model_info: ModelInfo

    def require(self, model_info: ModelInfo) -> None:
        """Raise SoundStormError unless the model has these properties."""
        if model_info != self.model_info:
            raise SoundStormError(
                f"the checkpoint at {self.request.options.checkpoint or 'the package'} has changed since "
                "the endpoint was started: restart the endpoint"
            )


def open_model(options: Options, device: str) -> ServedModel:
    """Open the model that the options of `generate` name.

    Raises:
        SoundStormError, ClusterError: a file is missing or does not match.
    """
    request = request_of(options)
    checkpoint, codec = request.checkpoint, request.codec
    if device != "cpu":
        checkpoint = open_checkpoint(request.files, device, options.checkpoint)
        codec = load_codec(request.codec_file, device)
    model_info = ModelInfo(
        categories=tuple(checkpoint.categories),
        sample_rate=codec.sample_rate,
        hop=codec.hop,
        num_levels=checkpoint.model.config.num_levels,
        checkpoint_sha256=checkpoint.sha256,
    )
    editor = editor_of(
        checkpoint, codec, request.sampler, request.reranker, device, precision=request.options.precision
    )
    return ServedModel(request=request, editor=editor, codec=codec, model_info=model_info)
