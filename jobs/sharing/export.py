"""`soundstorm export`: a checkpoint with its codec and a model card in one folder, in the format of a Hugging Face Hub
repository."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster import storage
from jobs.console.command import exit_process, print_note, run_command
from jobs.inputs.checkpoints import CODEC_FILE, checkpoint_files, codec_beside, open_checkpoint
from jobs.inputs.codecs import choose_codec
from soundstorm.errors import SoundStormError
from soundstorm.model.checkpoints import CONFIG_FILE, WEIGHTS_FILE, Checkpoint, pack_checkpoint
from soundstorm.reports.model_card import model_card
from soundstorm.serialization.bundled import bundled_file

CARD_FILE = "README.md"
CREDITS_FILE = "credits.csv"
PACKAGED_LICENCE, OTHER_LICENCE = "cc-by-4.0", "other"


@dataclass(kw_only=True)
class Options:
    """Put a checkpoint, its codec and a model card into one folder that others can use: as `--checkpoint`, or
    uploaded to the Hugging Face Hub as `--checkpoint hf://OWNER/NAME`."""

    output_dir: str
    """Folder for the files, a path or s3:// URI."""
    checkpoint: str | None = None
    """Output of `train`, or a checkpoint's folder; default: the checkpoint in the package."""
    codec: str | None = None
    """Weights of its codec, if they are neither in the package nor beside the checkpoint."""
    title: str | None = None
    """Heading of the model card; default: the name of the folder."""
    licence: str | None = None
    """Licence of the weights, as the hub writes it: cc-by-4.0, cc0-1.0, mit; default: that of the packaged weights, and
    `other` for yours."""
    packed: bool = False
    """Quantize the weights to a third of their size (not for further training)."""
    overwrite: bool = False
    """Replace an existing model."""


def run(options: Options) -> dict[str, Any]:
    """Write the folder; returns where it is, and what it takes to upload it.

    Raises:
        SoundStormError: there is no checkpoint or no codec that fits it, or the folder holds a model already.
        ClusterError: something cannot be read or written.
    """
    storage.check_writable(options.output_dir)
    if storage.exists(storage.join(options.output_dir, CONFIG_FILE)) and not options.overwrite:
        raise SoundStormError(
            f"--output-dir {options.output_dir} already contains a model: give another folder, or --overwrite"
        )
    files = checkpoint_files(options.checkpoint)
    checkpoint = open_checkpoint(files, uri=options.checkpoint)
    where = options.checkpoint or "the checkpoint in the package"
    codec, _ = choose_codec(options.codec, checkpoint.fingerprint, where, codec_beside(options.checkpoint))
    if options.packed and "packed_from_sha256" not in checkpoint.extra:
        files, checkpoint = _packed(checkpoint)
    licence = options.licence or (PACKAGED_LICENCE if options.checkpoint is None else OTHER_LICENCE)
    if licence == OTHER_LICENCE:
        print_note("without --licence the card states 'other', which allows no use of the weights")
    title = options.title or storage.absolute(options.output_dir).rstrip("/").rpartition("/")[2]
    card = model_card(checkpoint, title=title, licence=licence, size_bytes=len(files[WEIGHTS_FILE]))
    content = {CODEC_FILE: codec, CARD_FILE: card.encode(), WEIGHTS_FILE: files[WEIGHTS_FILE]}
    if options.checkpoint is None:
        content[CREDITS_FILE] = bundled_file(CREDITS_FILE).read_bytes()
    content[CONFIG_FILE] = files[CONFIG_FILE]  # last: readers that find it find the other files
    for name, data in content.items():
        storage.write_bytes(storage.join(options.output_dir, name), data)
    size = sum(map(len, content.values()))
    return {
        "message": f"{options.output_dir}: {len(content)} files, {size / 1e6:.1f} MB; to share it: "
        f"hf upload OWNER/NAME {options.output_dir}",
        "output_dir": options.output_dir,
        "files": sorted(content),
    }


def _packed(checkpoint: Checkpoint) -> tuple[dict[str, bytes], Checkpoint]:
    """The checkpoint with its weights rounded, and its files."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "checkpoint"
        sha256 = pack_checkpoint(checkpoint, folder)
        files = {name: (folder / name).read_bytes() for name in (CONFIG_FILE, WEIGHTS_FILE)}
    return files, replace(checkpoint, sha256=sha256)


if __name__ == "__main__":
    exit_process(run_command(Options, run))
