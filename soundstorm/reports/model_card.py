"""The model card of a shared checkpoint: a README.md in Markdown, whose head the Hugging Face Hub reads."""

import json

from soundstorm.data.categories import listed
from soundstorm.model.checkpoints import Checkpoint
from soundstorm.serialization.provenance import TrainedOn

TASK = "text-to-audio"
LIBRARY = "soundstorm-env"
SHOWN_CLASSES = 60
"""More classes than this are counted, not listed."""


def model_card(checkpoint: Checkpoint, *, title: str, licence: str, size_bytes: int) -> str:
    """The card of a checkpoint, with all that its files know of it.

    Args:
        title: name of the model, for the heading.
        licence: identifier of the licence as the hub has them, such as `cc-by-4.0`.
        size_bytes: size of the weights file.
    """
    head = {"license": licence, "library_name": LIBRARY, "pipeline_tag": TASK, "tags": ["audio", "sound-effects"]}
    rows = {
        "network": f"{checkpoint.model.num_parameters() / 1e6:.1f} million parameters, order of "
        f"{checkpoint.model.config.order}, {checkpoint.step} steps",
        "weights": f"{size_bytes / 1e6:.1f} MB, SHA-256 `{checkpoint.sha256}`",
        "codec": f"`{checkpoint.fingerprint.name}`, {checkpoint.fingerprint.num_levels} levels at "
        f"{checkpoint.fingerprint.frame_rate:g} frames/s, {checkpoint.fingerprint.sample_rate / 1000:g} kHz; SHA-256 "
        f"`{checkpoint.fingerprint.sha256}`",
        "trained on": str(checkpoint.provenance),
        "drawn by default": ", ".join(f"{name} {value}" for name, value in checkpoint.sampler.to_dict().items()),
        "licence": licence,
    }
    if isinstance(checkpoint.provenance, TrainedOn) and (parents := checkpoint.provenance.parents):
        rows["learned from"] = "; ".join(f"{parent.role} `{parent.name}` ({parent.trained_on})" for parent in parents)
    table = "\n".join(f"| {name} | {_in_a_cell(value)} |" for name, value in rows.items())
    names = checkpoint.categories
    example = json.dumps(names[0], ensure_ascii=False)
    front = "\n".join(f"{name}: {json.dumps(value)}" for name, value in head.items())  # JSON is YAML
    return f"""---
{front}
---
# {title}

A generator of environmental sound: SoundStorm over the codes of a neural codec, written by `soundstorm export`.

| | |
|---|---|
{table}

## Use

```
pip install 'soundstorm-env[hub]'
soundstorm generate --checkpoint hf://OWNER/NAME --class {example} --num-samples 4 --output-dir out
```

or with the folder itself as `--checkpoint`, or as the start of a training (`soundstorm train --checkpoint`).

## Classes

{len(names)}: {listed(names, SHOWN_CLASSES)}.

## Limits

What it makes is drawn from what recordings of these classes have in common; it is not evidence of anything that
happened. `soundstorm evaluate` measures how similar its clips are to recordings outside its training data.
"""


def _in_a_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
