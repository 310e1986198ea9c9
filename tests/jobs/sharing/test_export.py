"""`soundstorm export` and addresses of the hub: what one exports, another generates with, from a server that answers as
the Hugging Face Hub does."""

import csv
import hashlib
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from cluster import storage
from jobs.inputs.checkpoints import checkpoint_files, codec_beside, open_checkpoint
from jobs.inputs.codecs import choose_codec
from jobs.sharing import export
from soundstorm.codec.files import load_codec, packaged_codec_bytes
from soundstorm.errors import SoundStormError
from soundstorm.model.checkpoints import CheckpointInfo, load_checkpoint, packaged_checkpoint_files, save_checkpoint
from soundstorm.model.config import SamplerSettings
from soundstorm.model.presets import preset
from soundstorm.model.soundstorm import SoundStorm
from soundstorm.serialization.hub import OFFLINE, fetch_from_hub
from tests.conftest import shape_of
from tests.support.hub_server import HubServer, hub_server

FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """An empty hub, and an empty cache of it."""
    from huggingface_hub import constants

    with hub_server() as server:
        monkeypatch.delenv(OFFLINE, raising=False)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield server


@pytest.fixture(scope="module")
def own(tiny_codec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a small network of two classes, on a codec that is in no package."""
    codec = load_codec(tiny_codec.read_bytes())
    torch.manual_seed(0)
    model = SoundStorm(replace(preset("tiny").model, num_classes=2, **shape_of(codec.fingerprint)))
    folder = tmp_path_factory.mktemp("own") / "checkpoint"
    save_checkpoint(
        folder,
        model,
        CheckpointInfo(
            training=preset("tiny").training,
            categories=["door | wood", "rain"],
            fingerprint=codec.fingerprint,
            step=7,
            sampler=SamplerSettings(candidates=1),
        ),
    )
    return folder


def front_matter(card: bytes) -> dict[str, object]:
    head = card.decode().split("---\n")[1]
    found = yaml.safe_load(head)
    assert isinstance(found, dict)
    return found


def test_an_exported_folder_has_network_codec_card_and_credits(tmp_path: Path) -> None:
    out = tmp_path / "rain and more"
    summary = export.run(export.Options(output_dir=str(out)))
    assert summary["files"] == sorted(path.name for path in out.iterdir())
    assert summary["files"] == ["README.md", "codec.safetensors", "config.json", "credits.csv", "model.safetensors"]
    assert {name: (out / name).read_bytes() for name in packaged_checkpoint_files()} == packaged_checkpoint_files()
    assert (out / "codec.safetensors").read_bytes() == packaged_codec_bytes()
    assert next(csv.reader(io.StringIO((out / "credits.csv").read_text())))
    card = (out / "README.md").read_bytes()
    assert front_matter(card)["license"] == "cc-by-4.0" and "# rain and more" in card.decode()
    sha256 = hashlib.sha256(packaged_checkpoint_files()["model.safetensors"]).hexdigest()
    assert sha256 in card.decode() and load_checkpoint(out).sha256 == sha256


def test_into_object_storage_and_from_there(tmp_path: Path, own: Path, tiny_codec: Path, storage_root: str) -> None:
    export.run(export.Options(output_dir=storage_root, checkpoint=str(own), codec=str(tiny_codec), licence="mit"))
    card = storage.read_bytes(storage.join(storage_root, "README.md"))
    assert front_matter(card)["license"] == "mit"
    assert b"door \\| wood" not in card and b"2: door | wood, rain." in card
    found = open_checkpoint(checkpoint_files(storage_root), uri=storage_root)
    assert found.categories == ["door | wood", "rain"] and found.step == 7
    weights, _ = choose_codec(None, found.fingerprint, storage_root, codec_beside(storage_root))
    assert weights == tiny_codec.read_bytes()
    with pytest.raises(SoundStormError, match="already contains a model: give another folder, or --overwrite"):
        export.run(export.Options(output_dir=storage_root, checkpoint=str(own), codec=str(tiny_codec)))


def test_packed_weights_are_smaller_and_nearly_the_same(tmp_path: Path, own: Path, tiny_codec: Path) -> None:
    export.run(export.Options(output_dir=str(tmp_path / "x"), checkpoint=str(own), codec=str(tiny_codec), packed=True))
    before, after = load_checkpoint(own), load_checkpoint(tmp_path / "x")
    assert (tmp_path / "x" / "model.safetensors").stat().st_size < 0.5 * (own / "model.safetensors").stat().st_size
    for name, value in before.model.state_dict().items():
        torch.testing.assert_close(after.model.state_dict()[name], value, atol=0.03, rtol=0.03)


def test_a_checkpoint_whose_codec_is_not_at_hand_is_not_exported_without_it(tmp_path: Path, own: Path) -> None:
    with pytest.raises(SoundStormError, match=r"was made with codec 'tiny' .* give --codec"):
        export.run(export.Options(output_dir=str(tmp_path / "x"), checkpoint=str(own)))
    assert not (tmp_path / "x" / "config.json").exists()


def test_an_address_of_the_hub_is_a_checkpoint_with_its_codec(
    tmp_path: Path, own: Path, tiny_codec: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    export.run(export.Options(output_dir=str(tmp_path / "x"), checkpoint=str(own), codec=str(tiny_codec)))
    hub.repositories["someone/doors"] = {FIRST: {path.name: path.read_bytes() for path in (tmp_path / "x").iterdir()}}
    address = "hf://someone/doors"
    found = open_checkpoint(checkpoint_files(address), uri=address)
    assert found.sha256 == load_checkpoint(own).sha256 == load_checkpoint(address).sha256
    assert choose_codec(None, found.fingerprint, address, codec_beside(address))[0] == tiny_codec.read_bytes()
    assert len(hub.fetched) == len(set(hub.fetched)) == 3  # each file once: the rest is from the cache
    monkeypatch.setenv(OFFLINE, "1")
    assert load_checkpoint(address).step == 7


def test_a_revision_is_held_for_all_files(hub: HubServer) -> None:
    hub.repositories["a/b"] = {FIRST: {"x": b"old", "y": b"old"}, SECOND: {"x": b"new", "y": b"new"}}
    for address, content in (("hf://a/b", b"new"), (f"hf://a/b@{FIRST}", b"old"), ("hf://a/b@main", b"new")):
        folder = fetch_from_hub(address, ["x", "y"], ["z"])
        assert {(folder / name).read_bytes() for name in ("x", "y")} == {content}
        assert not (folder / "z").exists()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://doors", "hf://doors: give an address such as hf://OWNER/NAME"),
        ("hf://a/b/c", "give an address such as"),
        ("hf://a/--b", "cannot be fetched"),
        ("hf://nobody/nothing", "there is no such repository, or it is private"),
        ("hf://a/b@gone", "there is no such branch, tag or commit"),
        ("hf://a/b", "there is no config.json: the repository holds something else than `soundstorm export` wrote"),
    ],
)
def test_what_cannot_be_had_is_said_with_its_remedy(hub: HubServer, address: str, message: str) -> None:
    hub.repositories["a/b"] = {FIRST: {"weights.bin": b""}}
    with pytest.raises(SoundStormError, match=message):
        checkpoint_files(address)


def test_without_network_and_cache_the_error_says_so(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OFFLINE, "1")
    with pytest.raises(SoundStormError, match=r"config.json is not in the cache, and the hub cannot be reached"):
        checkpoint_files("hf://a/b")
