"""API keys: made once, kept as hashes, taken back."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vcut_trt.commands.app import app
from vcut_trt.errors import ConfigError, ServingError
from vcut_trt.serving.api.keys import KeyRing, add_key, remove_key


def test_a_key_opens_for_its_owner_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    ann, bob = add_key(file, "ann"), add_key(file, "bob")
    ring = KeyRing(file)
    owners = [ring.owner(ann), ring.owner(bob)]
    assert [str(owner).partition(":")[0] for owner in owners] == ["ann", "bob"]
    assert (ring.owner(ann + "x"), ring.owner("")) == (None, None)
    text = file.read_text()
    assert ann not in text
    assert hashlib.sha256(ann.encode()).hexdigest() in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_hash_itself_is_no_key(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    add_key(file, "ann")
    assert KeyRing(file).owner(json.loads(file.read_text())["keys"][0]["sha256"]) is None


def test_a_key_that_was_pasted_into_the_file_is_not_told(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    for content in ({"keys": [{"name": "ann", "sha256": "vcut_plain"}]}, {"keys": [{"vcut_plain": 1}]}, "vcut_plain"):
        file.write_text(json.dumps(content))
        with pytest.raises(ServingError, match="cannot read the keys") as refusal:
            KeyRing(file)
        assert "vcut_plain" not in str(refusal.value)


@pytest.mark.parametrize("name", ["", "a b", "../x", "-a", "x" * 65, "ä"])
def test_names_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is no name for a key"):
        add_key(tmp_path / "keys.json", name)
    assert not (tmp_path / "keys.json").exists()


def test_a_name_has_one_key(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    first = add_key(file, "ann")
    owner = KeyRing(file).owner(first)
    with pytest.raises(ConfigError, match="has a key for ann already"):
        add_key(file, "ann")
    remove_key(file, "ann")
    with pytest.raises(ConfigError, match="has no key for ann"):
        remove_key(file, "ann")
    second = add_key(file, "ann")
    ring = KeyRing(file)
    assert ring.owner(first) is None
    assert ring.owner(second) not in (None, owner)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"keys": [{"name": "a", "sha256": "x"}]}', '{"kyes": []}'])
def test_a_damaged_file_lets_nobody_in_and_is_not_written_over(tmp_path: Path, content: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(content)
    with pytest.raises(ServingError, match="cannot read the keys"):
        KeyRing(file)
    with pytest.raises(ServingError, match="cannot read the keys"):
        add_key(file, "ann")
    assert file.read_text() == content


def test_the_command_prints_the_key_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    made = CliRunner().invoke(app, ["keys", str(file), "ann"])
    assert made.exit_code == 0, made.output
    assert str(KeyRing(file).owner(made.stdout.strip())).startswith("ann:")
    again = CliRunner().invoke(app, ["keys", str(file), "ann"])
    assert (again.exit_code, again.stdout) == (2, "")
    assert CliRunner().invoke(app, ["keys", str(file), "ann", "--remove"]).exit_code == 0
    assert KeyRing(file).owner(made.stdout.strip()) is None
