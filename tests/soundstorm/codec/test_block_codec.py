"""The codec as a whole: fitting, files, exactness."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from soundstorm.audio.files import to_pcm16
from soundstorm.codec import files, fitting
from soundstorm.codec.block_codec import BlockCodec
from soundstorm.codec.config import BlockCodecConfig, for_block
from soundstorm.codec.files import load_codec, provenance_of_codec
from soundstorm.errors import SoundStormError
from soundstorm.serialization.provenance import MISSING, TrainedOn
from tests.soundstorm.codec.conftest import SMALL_FITTING, small_config


def _sha256(pcm_N: np.ndarray) -> str:
    return hashlib.sha256(to_pcm16(pcm_N).tobytes()).hexdigest()


# ---- geometry


@pytest.mark.parametrize(("frames_per_block", "levels", "rate"), [(1, 8, 75), (2, 16, 37.5), (4, 32, 18.75)])
def test_every_block_length_spends_80_bits_a_frame(frames_per_block: int, levels: int, rate: float) -> None:
    config = for_block(frames_per_block)
    assert (config.num_levels, config.column_rate) == (levels, rate)
    assert config.num_levels * 10 * config.column_rate == 6_000


@pytest.mark.parametrize(
    "setting",
    [
        {"frames_per_block": 3},
        {"dims": 81},
        {"hop": 322},
        {"highest_hz": 13_000},
        {"num_levels": 0},
        {"texture": "much"},
        {"beam": True},
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(setting: dict[str, object]) -> None:
    with pytest.raises(SoundStormError, match=f"codec setting {next(iter(setting))}"):
        BlockCodecConfig(**setting)  # type: ignore[arg-type]


# ---- fitting


def test_every_level_leaves_less_than_the_one_before(sounds: list[np.ndarray]) -> None:
    config = small_config()
    state = fitting.fit_codebooks(fitting.pool_of(sounds, config, SMALL_FITTING), config, SMALL_FITTING)
    errors = [report.error_nats for report in state.reports]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.8 * errors[0]
    assert all(report.codes_in_use > 0.9 and 4 < report.entropy_bits <= 6 for report in state.reports)


def test_fitting_goes_on_from_a_state_as_if_it_had_not_been_cut_short(sounds: list[np.ndarray]) -> None:
    config = small_config()
    pool_PV = fitting.pool_of(sounds, config, SMALL_FITTING)
    whole = fitting.fit_codebooks(pool_PV, config, SMALL_FITTING)
    state = fitting.fit_codebooks(pool_PV, replace(config, num_levels=1), SMALL_FITTING)
    told: list[int] = []
    again = fitting.fit_codebooks(pool_PV, config, SMALL_FITTING, state, lambda report: told.append(report.level))
    assert told == [1, 2]
    for (codes, multiplier), (other_codes, other_multiplier) in zip(whole.packed, again.packed, strict=True):
        np.testing.assert_array_equal(codes, other_codes)
        np.testing.assert_array_equal(multiplier, other_multiplier)


def test_the_pool_stays_as_large_as_it_may_be_however_many_recordings_there_are() -> None:
    assert fitting.blocks_per_copy(1_000_000, fitting.FittingConfig()) == 1
    config = fitting.FittingConfig(copies=4, pool_blocks=1_000, simple_sounds=0)
    assert 4 * 10 * fitting.blocks_per_copy(10, config) == 1_000


def test_too_few_blocks_are_refused_with_the_numbers() -> None:
    config = small_config()
    with pytest.raises(ValueError, match="5 blocks cannot make 64 codes"):
        fitting.fit_codebooks(np.zeros((5, config.block_size), np.float16), config, SMALL_FITTING)


# ---- files


def test_a_codec_comes_back_from_its_file(small_codec: BlockCodec, sounds: list[np.ndarray], tmp_path: Path) -> None:
    path = tmp_path / "block.safetensors"
    path.write_bytes(files.to_bytes(small_codec, "small", "fitted to synthetic sounds"))
    codec = load_codec(path)
    fingerprint = codec.fingerprint
    assert (fingerprint.name, fingerprint.frame_rate, fingerprint.num_levels, fingerprint.codebook_size) == (
        "small",
        37.5,
        3,
        64,
    )
    assert fingerprint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    codes_QC = codec.encode_clips([sounds[0]])[0]
    np.testing.assert_array_equal(codes_QC, small_codec.encode(sounds[0]))
    assert codes_QC.shape == (3, -(-len(sounds[0]) // 640))
    decoded_N = codec.decode_clips([codes_QC], [4])[0]
    assert decoded_N.shape == (codes_QC.shape[1] * codec.hop,)
    np.testing.assert_array_equal(decoded_N, small_codec.decode(codes_QC, 4))


def test_a_file_says_what_the_codec_was_fitted_to(small_codec: BlockCodec) -> None:
    learned = TrainedOn(outside=("synthetic sounds",))
    said, unsaid = (
        files.to_bytes(small_codec, "small", "fitted to esc10", trained_on) for trained_on in (learned, None)
    )
    assert (provenance_of_codec(said), provenance_of_codec(unsaid)) == (learned, MISSING)
    assert load_codec(said).fingerprint.name == "small"


def test_the_same_codec_gives_the_same_file_each_time(small_codec: BlockCodec) -> None:
    assert len({files.to_bytes(small_codec, "small", "fitted to synthetic sounds") for _ in range(20)}) == 1


def test_the_largest_codec_fits_into_10_megabytes() -> None:
    config = for_block(4)
    assert config.num_levels * config.codebook_size * config.dims + 2 * config.block_size * config.dims < 9_500_000


def _with(data: bytes, header: dict[str, str] | None = None, **tensors: np.ndarray) -> bytes:
    metadata = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    return save(load(data) | tensors, metadata=metadata | (header or {}))


def test_damaged_files_are_refused_with_the_fault_and_the_remedy(small_codec: BlockCodec, tmp_path: Path) -> None:
    good = files.to_bytes(small_codec, "small", "")
    config = small_codec.config.to_dict()
    damaged = {
        "cut": (good[: len(good) // 2], ""),
        "shape": (_with(good, texture=np.zeros(3, np.float32)), "'texture' is float32 .3,., expected float32 .80,."),
        "kind": (_with(good, codes=np.zeros((3, 64, 40), np.int16)), "'codes' is int16"),
        "nan": (_with(good, texture=np.full(80, np.nan, np.float32)), "'texture' holds values that are not finite"),
        "setting": (_with(good, {"config": json.dumps(config | {"beam": 0})}), "codec setting beam is 0"),
        "unknown setting": (_with(good, {"config": json.dumps(config | {"depth": 1})}), "depth"),
        "format": (_with(good, {"format": "soundstorm-block-codec-9"}), "soundstorm-block-codec-9"),
    }
    for name, (content, fault) in damaged.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(SoundStormError, match=f"{name}.safetensors.*{fault}.*train-codec"):
            load_codec(path)


# ---- the first levels alone


def test_levels_that_are_left_out_come_back_as_noise_of_their_variance(small_codec: BlockCodec) -> None:
    codes_QC = np.random.default_rng(0).integers(64, size=(3, 4_000))
    whole_TM, first_TM = small_codec.decode_log_mel(codes_QC), small_codec.decode_log_mel(codes_QC[:1])
    expected_M = np.square(small_codec.texture(3)) + np.square(whole_TM - first_TM).mean(0)
    np.testing.assert_allclose(np.square(small_codec.texture(1)), expected_M, rtol=0.15)
    assert small_codec.decode(codes_QC[:1]).shape == small_codec.decode(codes_QC).shape


# ---- exactness


def test_codes_are_the_same_whole_in_parts_and_in_batches(small_codec: BlockCodec) -> None:
    wave_N = (0.2 * np.random.default_rng(0).standard_normal(300_000)).astype(np.float32)
    whole_QC = small_codec.encode(wave_N)
    for size in (1_000, 77_777):
        parts = [wave_N[start : start + size] for start in range(0, len(wave_N), size)]
        np.testing.assert_array_equal(np.concatenate(list(small_codec.encode_stream(parts)), axis=1), whole_QC)


def test_samples_are_the_same_alone_in_batches_and_in_windows(small_codec: BlockCodec, tmp_path: Path) -> None:
    path = tmp_path / "block.safetensors"
    path.write_bytes(files.to_bytes(small_codec, "small", ""))
    codec, rng = load_codec(path), np.random.default_rng(0)
    codes = [rng.integers(64, size=(3, columns)).astype(np.uint16) for columns in (1, 40, 40, 40, 130, 40, 211)]
    seeds = [0, 1, 2, 1 << 62, 4, 1, 6]
    together = [_sha256(wave_N) for wave_N in codec.decode_clips(codes, seeds)]
    assert together == [
        _sha256(small_codec.decode(codes_QC, seed)) for codes_QC, seed in zip(codes, seeds, strict=True)
    ]
    windows = [
        np.concatenate(list(small_codec.decode_stream(np.array_split(codes_QC, 5, 1), seed)))
        for codes_QC, seed in zip(codes, seeds, strict=True)
    ]
    assert together == [_sha256(wave_N) for wave_N in windows]


PROCESS = """
import sys, hashlib, json, numpy as np, torch
torch.set_num_threads(int(sys.argv[2]))
from soundstorm.codec.files import from_bytes
data = open(sys.argv[1], "rb").read()
codec = from_bytes(data, json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"])
waves = torch.from_numpy(np.random.default_rng(0).normal(0, 0.2, (5, 1, 30_000)).astype(np.float32))
codes = codec.encode_batch(waves)
pcm = np.rint(codec.decode_batch(codes, range(5)).numpy().astype(np.float64) * 32768).astype(np.int16)
print(hashlib.sha256(codes.numpy().tobytes() + pcm.tobytes()).hexdigest())
"""


def test_codes_and_samples_are_the_same_in_processes_with_other_thread_counts(
    small_codec: BlockCodec, tmp_path: Path
) -> None:
    path = tmp_path / "block.safetensors"
    path.write_bytes(files.to_bytes(small_codec, "small", ""))
    commands = [[sys.executable, "-c", PROCESS, str(path), threads] for threads in ("1", "3")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    found = [process.communicate()[0] for process in processes]
    assert found[0] == found[1] and len(found[0].strip()) == 64


def test_an_hour_of_codes_is_decoded_in_the_memory_of_a_window(small_codec: BlockCodec) -> None:
    """Ten minutes here: the windows come one by one, while the codes are still being read."""
    read = 0

    def columns() -> object:
        nonlocal read
        for _ in range(225):
            read += 1
            yield np.zeros((3, 100), np.uint16)

    windows = small_codec.decode_stream(columns())  # type: ignore[arg-type]
    first_N = next(windows)
    assert len(first_N) <= 192 * 320 and read <= 3


def test_a_clip_of_digital_silence_comes_back_as_digital_silence() -> None:
    config = replace(small_config(4), num_levels=4)
    rng = np.random.default_rng(0)
    clips = [
        np.concatenate([0.1 * rng.standard_normal(12_000), np.zeros(24_000)]).astype(np.float32) for _ in range(12)
    ]
    state = fitting.fit_codebooks(fitting.pool_of(clips, config, SMALL_FITTING), config, SMALL_FITTING)
    codec = fitting.finish(state, clips[:2], config)
    pcm_N = to_pcm16(codec.decode(codec.encode(np.zeros(24_000, np.float32))))
    assert not pcm_N.any()
    mixed_N = to_pcm16(codec.decode(codec.encode(clips[0])))
    assert mixed_N[:11_000].std() > 1_000 and not mixed_N[14_000:].any()


def test_the_search_follows_the_codec_to_another_device(small_codec: BlockCodec) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    codes_QC = small_codec.encode(np.ones(9_600, np.float32))
    np.testing.assert_array_equal(small_codec.to("cuda").encode(np.ones(9_600, np.float32)), codes_QC)
    small_codec.to("cpu")
