from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import pytest
from expect import refuses
from pydantic import Field, PositiveInt, TypeAdapter, ValidationError, field_validator

from mist_ops.errors import ConfigError
from mist_ops.schema import Flag, Section, flag_mistake, flagged_fields, mistakes, read_checked, refusal
from mist_ops.types import Json


class _Oven(Section):
    temperature: Annotated[PositiveInt, Flag("bake")] = Field(180, description="Degrees.")
    fan_speed: Annotated[int, Flag("bake", "fan")] = 1
    power: Annotated[float, Field(le=100)] = 100.0
    grill: bool = False
    mode: Literal["air", "heat", "both"] = "both"


class _Kitchen(Section):
    name: Annotated[str, Field(min_length=1)]
    oven: _Oven = _Oven()
    spare: _Oven | None = None
    sizes: tuple[int, int, int] = (1, 1, 1)

    @field_validator("name")
    @classmethod
    def _is_open(cls, name: str) -> str:
        try:
            if name == "closed":
                raise ConfigError("The kitchen is closed.", code="kitchen-closed", found=name)
        except ConfigError as error:
            raise ValueError(error.message) from error
        return name


def _file(folder: Path, text: str) -> Path:
    (folder / "a.json").write_text(text)
    return folder / "a.json"


def test_a_file_is_read_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    for mark in ("", "\ufeff"):
        (tmp_path / "a.json").write_text(mark + '{"name": "ours", "oven": {"temperature": 200}}', encoding="utf-8")
        assert read_checked(tmp_path / "a.json", _Kitchen, ConfigError).oven.temperature == 200


def test_all_mistakes_are_listed_and_the_first_gives_the_facts(tmp_path: Path) -> None:
    path = _file(tmp_path, '{"oven": {"temperature": -1, "fan_speed": "fast"}}')
    with refuses("key-missing", ConfigError, field="name", file=path) as refused:
        read_checked(path, _Kitchen, ConfigError)
    for part in ("'oven.temperature' must be at least 1, got -1.", "'oven.fan_speed' must be an integer"):
        assert part in refused.value.message


@pytest.mark.parametrize("oven", ["oven", "spare"])
def test_an_unknown_key_is_refused_with_the_nearest_one(tmp_path: Path, oven: str) -> None:
    path = _file(tmp_path, f'{{"name": "ours", "{oven}": {{"temprature": 200}}}}')
    with refuses("unknown-key", names="Did you mean 'temperature'?", field=f"{oven}.temprature", found="temprature"):
        read_checked(path, _Kitchen, ConfigError)


def test_an_unknown_key_unlike_any_other_is_refused_with_all_keys(tmp_path: Path) -> None:
    path = _file(tmp_path, '{"name": "ours", "garden": 1}')
    with refuses("unknown-key", names="Known: name, oven, spare, sizes.", expected=["name", "oven", "spare", "sizes"]):
        read_checked(path, _Kitchen, ConfigError)


@pytest.mark.parametrize(
    "text, names",
    [
        ('{"name": "ours", "name": "theirs"}', "duplicate key 'name'"),
        ('{"name": NaN}', "NaN"),
        ('{"name": "ours" // mine\n}', "line 1, column 17"),
        ("", "it is empty"),
        ("\x00", "line 1"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_file_that_is_not_json_is_refused(tmp_path: Path, text: str, names: str) -> None:
    path = _file(tmp_path, text)
    with refuses("json-invalid", ConfigError, names=names, file=path):
        read_checked(path, _Kitchen, ConfigError)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"\xff\xfe\x00")
    with refuses("json-invalid", ConfigError, file=path):
        read_checked(path, _Kitchen, ConfigError)


@pytest.mark.parametrize(
    "content, field, expected",
    [
        ({"name": 1}, "name", "text"),
        ({"name": ""}, "name", "not be empty"),
        ({"oven": []}, "oven", "an object"),
        ({"oven": {"temperature": 1.5}}, "oven.temperature", "an integer"),
        ({"oven": {"grill": "maybe"}}, "oven.grill", "true or false"),
        ({"oven": {"mode": "steam"}}, "oven.mode", "air, heat or both"),
        ({"oven": {"power": "much"}}, "oven.power", "a number"),
        ({"oven": {"power": 101}}, "oven.power", "at most 100"),
        ({"sizes": [1, 2]}, "sizes", "3 items"),
        ({"sizes": [1, 2, 3, 4]}, "sizes", "have at most 3 items"),
        ({"sizes": 3}, "sizes", "a list"),
    ],
)
def test_a_mistake_is_described_without_the_words_of_pydantic(content: Json, field: str, expected: str) -> None:
    with pytest.raises(ValidationError) as refused:
        _Kitchen.model_validate({"name": "ours", **content})
    error = refusal(ConfigError, refused.value, _Kitchen)
    assert (error.code, error.field, error.expected) == ("value-invalid", field, expected)
    assert not re.search("[Ii]nput|valid|tuple|dict", error.message)


def test_the_error_behind_a_validator_gives_code_and_facts() -> None:
    with pytest.raises(ValidationError) as refused:
        _Kitchen.model_validate({"name": "closed"})
    error = refusal(ConfigError, refused.value, _Kitchen)
    assert (error.code, error.field, error.found) == ("kitchen-closed", "name", "closed")
    assert "[" not in error.message


def test_a_mistake_in_a_flag_names_the_flag() -> None:
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(PositiveInt).validate_python("0")
    assert flag_mistake("--epochs", refused.value) == "--epochs: must be at least 1 (got 0)"


def test_flags_are_found_in_sections_with_their_paths() -> None:
    found = {flagged.flag: (flagged.path, flagged.command) for flagged in flagged_fields(_Kitchen)}
    assert found == {"--temperature": ("oven.temperature", "bake"), "--fan": ("oven.fan_speed", "bake")}


def test_a_section_is_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        _Oven().temperature = 200  # type: ignore[misc]


def test_content_of_the_wrong_type_is_described_without_a_path() -> None:
    with pytest.raises(ValidationError) as refused:
        _Kitchen.model_validate("no kitchen")
    assert mistakes(refused.value, _Kitchen) == ["the content must be an object, got 'no kitchen'."]
