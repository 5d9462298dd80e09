from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, PositiveInt, ValidationError

from mist_ops.errors import ConfigError
from mist_ops.schema import Flag, Section, flagged_fields, mistakes, read_checked


class _Oven(Section):
    temperature: Annotated[PositiveInt, Flag("bake")] = Field(180, description="Degrees.")
    fan_speed: Annotated[int, Flag("bake", "fan")] = 1


class _Kitchen(Section):
    name: str
    oven: _Oven = _Oven()
    spare: _Oven | None = None


def _refusal(path: Path, text: str) -> str:
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_checked(path, _Kitchen, ConfigError)
    return str(refused.value)


def test_a_file_reads_as_its_model_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    for mark in ("", "\ufeff"):
        (tmp_path / "a.json").write_text(mark + '{"name": "ours", "oven": {"temperature": 200}}', encoding="utf-8")
        assert read_checked(tmp_path / "a.json", _Kitchen, ConfigError).oven.temperature == 200


def test_every_mistake_is_named_at_once(tmp_path: Path) -> None:
    message = _refusal(tmp_path / "a.json", '{"oven": {"temperature": -1, "fan_speed": "fast"}}')
    for part in ("a.json", "'name': Field required", "'oven.temperature'", "(found -1)", "'oven.fan_speed'"):
        assert part in message


@pytest.mark.parametrize("oven", ["oven", "spare"])
def test_an_unknown_key_is_told_with_the_nearest_one(tmp_path: Path, oven: str) -> None:
    message = _refusal(tmp_path / "a.json", f'{{"name": "ours", "{oven}": {{"temprature": 200}}}}')
    assert f"the key '{oven}.temprature' is not known. Did you mean 'temperature'?" in message


def test_an_unknown_key_like_no_other_is_told_with_all_there_are(tmp_path: Path) -> None:
    assert "Known: name, oven, spare." in _refusal(tmp_path / "a.json", '{"name": "ours", "garden": 1}')


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    assert "'name' is given twice" in _refusal(tmp_path / "a.json", '{"name": "ours", "name": "theirs"}')


@pytest.mark.parametrize("text", ['{"name": NaN}', '{"name": "ours" // mine\n}', "", "\x00"])
def test_what_is_no_json_is_refused(tmp_path: Path, text: str) -> None:
    assert "cannot be read as JSON" in _refusal(tmp_path / "a.json", text)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read as JSON"):
        read_checked(tmp_path / "a.json", _Kitchen, ConfigError)


def test_flags_are_found_in_sections_with_their_paths() -> None:
    found = {flagged.flag: (flagged.path, flagged.command) for flagged in flagged_fields(_Kitchen)}
    assert found == {"--temperature": ("oven.temperature", "bake"), "--fan": ("oven.fan_speed", "bake")}


def test_a_section_is_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        _Oven().temperature = 200  # type: ignore[misc]


def test_mistakes_of_a_whole_model_are_told_without_a_path() -> None:
    with pytest.raises(ValidationError) as refused:
        _Kitchen.model_validate("no kitchen")
    assert "(found 'no kitchen')" in mistakes(refused.value, _Kitchen)[0]
