"""A part whose weights exist twice: two that differ are refused by name, one is never chosen silently."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints.conftest import OTHER_SIZE, pipeline
from tests.checkpoints.folders import WEIGHTS, State, in_type, open_folder, save_as, trained
from tests.models import checkpoint
from vcut_trt.checkpoints import compare
from vcut_trt.checkpoints.compare import same_up_to_rounding
from vcut_trt.errors import CheckpointError, ConfigError
from vcut_trt.spec.precision import Precision


def fp16_name(part: str) -> str:
    return WEIGHTS[part].replace(".safetensors", ".fp16.safetensors")


def names(folder: Path, precision: Precision = Precision.FP32, variant: str | None = None) -> list[str]:
    opened = open_folder(folder, precision, variant=variant)
    return [path.name for weights in opened.weights.values() for path in weights.files]


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("part", WEIGHTS)
def test_old_fp16_weights_beside_new_ones_are_refused_with_both_names(
    folder: Path, part: str, precision: Precision
) -> None:
    save_as(folder, part, fp16_name(part), in_type(torch.float16))
    save_as(folder, part, WEIGHTS[part], trained)
    with pytest.raises(CheckpointError, match="hold different weights") as caught:
        open_folder(folder, precision)
    message = str(caught.value)
    assert str(folder / part / WEIGHTS[part]) in message
    assert str(folder / part / fp16_name(part)) in message
    assert re.search(r"differs by up to \d.*Say which with --variant (fp16 or none|none or fp16)", message)


def test_the_variant_that_is_asked_for_is_read(folder: Path) -> None:
    save_as(folder, "unet", fp16_name("unet"), in_type(torch.float16))
    new = save_as(folder, "unet", WEIGHTS["unet"], trained)
    for variant, name in (("fp16", fp16_name("unet")), ("none", WEIGHTS["unet"])):
        for precision in Precision:
            assert names(folder, precision, variant) == [name, WEIGHTS["vae"], WEIGHTS["image_encoder"]]
    loaded = open_folder(folder, Precision.FP16, variant="none").unet(torch.float32).state_dict()
    torch.testing.assert_close(loaded, load_file(new), rtol=0, atol=0)


def test_weights_that_differ_by_rounding_are_taken_for_the_precision(folder: Path) -> None:
    for part in WEIGHTS:
        save_as(folder, part, fp16_name(part), in_type(torch.float16))
        save_as(folder, part, WEIGHTS[part].replace(".", ".bf16.", 1), in_type(torch.bfloat16))
    plain, half = list(WEIGHTS.values()), [fp16_name(part) for part in WEIGHTS]
    assert [names(folder, precision) for precision in Precision] == [half, plain, plain]
    assert names(folder, variant="bf16")[0] == "diffusion_pytorch_model.bf16.safetensors"


def test_a_variant_that_no_part_has_is_refused_with_what_there_is(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no weights of --variant fp16. It has unet: none, vae: none, image_encoder"):
        open_folder(folder, variant="fp16")


@pytest.mark.parametrize("part", WEIGHTS)
def test_weights_under_another_name_are_compared_too(folder: Path, part: str) -> None:
    save_as(folder, part, "mine.safetensors", lambda state: state)
    assert names(folder) == list(WEIGHTS.values())
    save_as(folder, part, "mine.safetensors", trained)
    with pytest.raises(CheckpointError, match=r"mine\.safetensors hold different .* Only one can be meant"):
        open_folder(folder)
    assert names(folder, variant="none") == list(WEIGHTS.values())
    (folder / part / WEIGHTS[part]).unlink()
    assert "mine.safetensors" in names(folder)


def test_a_lora_beside_a_model_is_not_overlooked(folder: Path) -> None:
    save_as(folder, "unet", "pytorch_lora_weights.safetensors", lambda _state: {"lora.up.weight": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"pytorch_lora_weights\.safetensors hold different weights"):
        open_folder(folder)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_sharded_checkpoint_loads_as_diffusers_and_transformers_save_it(tmp_path: Path, variant: str | None) -> None:
    stock = pipeline()
    if variant:
        stock.to(torch.float16)
    stock.save_pretrained(tmp_path, variant=variant, max_shard_size="100KB")
    opened = open_folder(tmp_path, Precision.FP16)
    for part in WEIGHTS:
        assert len(opened.weights[part].files) > 1
        assert len(list((tmp_path / part).glob("*.index*.json"))) == 1
        expected = getattr(checkpoint(OTHER_SIZE), part)(torch.float16).state_dict()
        torch.testing.assert_close(getattr(opened, part)(torch.float16).state_dict(), expected, rtol=0, atol=0)
    assert opened.parameter_counts() == checkpoint(OTHER_SIZE).parameter_counts()


def shard(folder: Path, part: str, name: str, count: int = 2) -> list[Path]:
    """Save a part again in shards, whose names `name` makes of their numbers, with an index."""
    state = load_file(folder / part / WEIGHTS[part])
    keys = sorted(state)
    paths = [folder / part / name.format(number) for number in range(1, count + 1)]
    for place, path in enumerate(paths):
        save_file({key: state[key] for key in keys[place::count]}, path, {"format": "pt"})
    listed = {key: paths[place % count].name for place, key in enumerate(keys)}
    index = folder / part / f"{WEIGHTS[part]}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    return paths


@pytest.mark.parametrize("name", ["diffusion_pytorch_model-{:05}-of-00002.safetensors", "piece_{}.safetensors"])
def test_one_file_beside_shards_must_say_the_same(folder: Path, name: str) -> None:
    paths = shard(folder, "unet", name)
    assert names(folder)[0] == WEIGHTS["unet"]
    save_as(folder, "unet", WEIGHTS["unet"], trained)
    with pytest.raises(CheckpointError, match=r"model\.safetensors and .*\(and 1 more\) hold different"):
        open_folder(folder)
    (folder / "unet" / WEIGHTS["unet"]).unlink()
    assert names(folder)[:2] == [path.name for path in paths]


@pytest.mark.parametrize("name", ["diffusion_pytorch_model-{:05}-of-00003.safetensors", "piece_{}.safetensors"])
def test_a_missing_shard_is_named(folder: Path, name: str) -> None:
    paths = shard(folder, "unet", name, 3)
    (folder / "unet" / WEIGHTS["unet"]).unlink()
    paths[1].unlink()
    with pytest.raises(CheckpointError, match=r"2 of the 3 shards|lists piece_2\.safetensors, which is not there"):
        open_folder(folder)


def test_a_key_in_two_shards_is_refused(folder: Path) -> None:
    paths = shard(folder, "unet", "diffusion_pytorch_model-{:05}-of-00002.safetensors")
    (folder / "unet" / WEIGHTS["unet"]).unlink()
    save_file({**load_file(paths[0]), **load_file(paths[1])}, paths[1], {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"-00002-of-00002\.\w+ and .*-00001-of-00002\.\w+ both hold"):
        open_folder(folder)


@pytest.mark.parametrize("content", ["[]", '{"weight_map": {"a": "../b.safetensors"}}', '{"weight_map": {}}', "{"])
def test_a_damaged_index_is_named(folder: Path, content: str) -> None:
    (folder / "unet" / f"{WEIGHTS['unet']}.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"unet/.*\.safetensors\.index\.json (is no|names no)"):
        open_folder(folder)


def test_rounding_of_either_type_is_no_difference() -> None:
    weights = torch.randn(4096, generator=torch.Generator().manual_seed(0), dtype=torch.float32) * 1e-3
    for one in (torch.float32, torch.float16, torch.bfloat16):
        for other in (torch.float32, torch.float16, torch.bfloat16):
            assert same_up_to_rounding(weights.to(one), weights.to(other))
            assert same_up_to_rounding(weights.bfloat16().to(one), weights.to(other)) is (
                torch.bfloat16 in (one, other)
            )
    moved = weights.clone()
    moved[17] *= 1 + 2**-9  # two spacings of fp16
    assert not same_up_to_rounding(weights, moved.half())
    assert not same_up_to_rounding(weights, moved)


def test_weights_are_compared_in_bounded_pieces_to_the_last(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "CHUNK_ELEMENTS", 1000)
    seen: list[int] = []

    def watch(one: torch.Tensor, other: torch.Tensor) -> bool:
        seen.append(one.numel())
        return same_up_to_rounding(one, other)

    def last_row_moved(state: State) -> State:
        key = max(state, key=lambda key: state[key].shape[0] * (state[key].ndim > 1))
        moved = state[key].clone()
        moved[-1] += 0.01
        return {**state, key: moved}

    monkeypatch.setattr(compare, "same_up_to_rounding", watch)
    save_as(folder, "unet", fp16_name("unet"), in_type(torch.float16))
    open_folder(folder)
    largest_row = max(tensor[0].numel() for tensor in load_file(folder / "unet" / WEIGHTS["unet"]).values())
    assert sum(seen) == checkpoint(OTHER_SIZE).parameter_counts()["unet"]
    assert max(seen) <= max(1000, largest_row)
    save_as(folder, "unet", WEIGHTS["unet"], last_row_moved)
    with pytest.raises(CheckpointError, match="hold different weights"):
        open_folder(folder)
