"""The model that an endpoint serves: read and checked as `generate` does, and what of it the studio knows."""

from dataclasses import dataclass, field

from jobs.actors.generator import editor_of
from jobs.generation.options import Options
from jobs.generation.request import Request, request_of
from jobs.inputs.checkpoints import open_checkpoint
from jobs.serving.sound_request import ModelInfo
from soundstorm.codec.codec import Codec
from soundstorm.codec.files import load_codec
from soundstorm.errors import SoundStormError
from soundstorm.generation.editing import Editor


@dataclass(kw_only=True, frozen=True)
class ServedModel:
    """A checkpoint, its codec and its listener, on a device."""

    request: Request = field(repr=False)
    """What `generate` would be asked to make with them."""
    editor: Editor = field(repr=False)
    codec: Codec = field(repr=False)
    about: ModelInfo

    def require(self, about: ModelInfo) -> None:
        """Raise SoundStormError unless this is the model that the studio knows."""
        if about != self.about:
            raise SoundStormError(
                f"the checkpoint at {self.request.options.checkpoint or 'its place in the package'} has changed since "
                "the endpoint was started: start it again"
            )


def open_model(options: Options, device: str) -> ServedModel:
    """The model that the options of `generate` name.

    Raises:
        SoundStormError, ClusterError: it is not there, or does not fit together.
    """
    request = request_of(options)
    checkpoint, codec = request.checkpoint, request.codec
    if device != "cpu":
        checkpoint = open_checkpoint(request.files, device, options.checkpoint)
        codec = load_codec(request.codec_file, device)
    about = ModelInfo(
        categories=tuple(checkpoint.categories),
        sample_rate=codec.sample_rate,
        hop=codec.hop,
        num_levels=checkpoint.model.config.num_levels,
        checkpoint_sha256=checkpoint.sha256,
    )
    editor = editor_of(checkpoint, codec, request.sampler, request.reranker, device)
    return ServedModel(request=request, editor=editor, codec=codec, about=about)
