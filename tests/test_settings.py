"""The environment is read once, into settings that are valid or refused with the variable's name."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from olmoe_space.settings import BACKENDS, DTYPES, EMBEDDED_MODEL, WEIGHTS, Settings, from_environment

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
# variable -> its values, default and meaning, as README's table has them
VARIABLES = {name: [cell.strip() for cell in cells.split(" | ")]
             for name, cells in re.findall(r"^\| `([A-Z_]+)` \| (.*) \|$", README, flags=re.MULTILINE)}


def test_nothing_set_is_this_machine_alone():
    settings = from_environment({})
    assert settings == Settings()
    assert (settings.model, settings.dtype, settings.host, settings.port) == (None, None, "127.0.0.1", 7860)
    assert not settings.on_space and not settings.on_zero_gpu


def test_every_variable_arrives():
    settings = from_environment({"OLMOE_MODEL": "/models/olmoe", "OLMOE_DTYPE": "bfloat16", "OLMOE_WEIGHTS": "int8",
                                 "OLMOE_BACKEND": "torch", "PORT": "8000", "GRADIO_SERVER_NAME": "192.0.2.1",
                                 "OLMOE_ENGINE": "ray://192.0.2.1:8000", "SPACE_ID": "me/olmoe",
                                 "SPACES_ZERO_GPU": "true"})
    assert settings == Settings(model="/models/olmoe", dtype="bfloat16", weights="int8", backend="torch", port=8000,
                                host="192.0.2.1", engine="ray://192.0.2.1:8000", on_space=True, on_zero_gpu=True)


def test_empty_variables_are_as_good_as_none():
    names = ("OLMOE_ENGINE", "OLMOE_MODEL", "OLMOE_DTYPE", "OLMOE_WEIGHTS", "OLMOE_BACKEND",
             "PORT", "GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "SPACE_ID")
    assert from_environment(dict.fromkeys(names, "")) == Settings()


def test_port_wins_over_gradios_own_variable():
    assert from_environment({"GRADIO_SERVER_PORT": "9000"}).port == 9000
    assert from_environment({"GRADIO_SERVER_PORT": "9000", "PORT": "8000"}).port == 8000


def test_a_space_listens_to_the_world_and_a_laptop_does_not():
    assert from_environment({"SPACE_ID": "me/olmoe"}).host == "0.0.0.0"
    assert from_environment({}).host == "127.0.0.1"


@pytest.mark.parametrize("port", ["http", "-1", "80.5", "65536", " 80", "0x50"])
def test_a_bad_port_is_refused_by_name(port):
    with pytest.raises(ValueError, match="^PORT must be"):
        from_environment({"PORT": port})


@pytest.mark.parametrize("dtype", ["int8", "fp32", "Float32", "torch.float32"])
def test_a_bad_dtype_is_refused_with_those_there_are(dtype):
    with pytest.raises(ValueError, match="^OLMOE_DTYPE must be one of float32, bfloat16, float16; got"):
        from_environment({"OLMOE_DTYPE": dtype})
    assert all(from_environment({"OLMOE_DTYPE": good}).dtype == good for good in DTYPES)


@pytest.mark.parametrize("backend", ["cuda", "Numba", "pytorch"])
def test_a_bad_backend_is_refused_with_those_there_are(backend):
    with pytest.raises(ValueError, match="^OLMOE_BACKEND must be one of .*; got"):
        from_environment({"OLMOE_BACKEND": backend})


def test_every_backend_that_may_be_asked_for_is_there():
    from olmoe_space.engine.backend import BUILDERS
    assert set(BACKENDS) == set(BUILDERS)
    assert all(from_environment({"OLMOE_BACKEND": good}).backend == good for good in BACKENDS)


@pytest.mark.parametrize("weights", ["int4", "INT8", "bfloat16"])
def test_other_weights_than_8_bits_are_refused(weights):
    with pytest.raises(ValueError, match="^OLMOE_WEIGHTS must be int8, or unset"):
        from_environment({"OLMOE_WEIGHTS": weights})


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1


def test_every_limit_is_above_nothing():
    limits = {f.name: getattr(Settings(), f.name) for f in dataclasses.fields(Settings)
              if f.name.startswith("max_") or f.name.endswith("_per_s")}
    assert len(limits) >= 8 and all(limit > 0 for limit in limits.values())


def test_the_embedded_model_is_looked_for_beside_the_package():
    assert EMBEDDED_MODEL.parts[-2:] == ("assets", "olmoe-tiny")
    assert (EMBEDDED_MODEL.parent.parent / "olmoe_space" / "settings.py").is_file()


class Watched(dict[str, str]):
    """An environment that notes what is looked for in it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)


def test_readme_names_every_variable_that_is_read_and_no_other():
    environment = Watched()
    from_environment(environment)
    assert VARIABLES.keys() == environment.asked


def test_readmes_defaults_are_those_in_force():
    """Where a variable has a default of its own; "by device" and the like are settled when the model is loaded."""
    settings = from_environment({})
    fixed = {name: row[1].strip("`") for name, row in VARIABLES.items() if row[1].startswith("`")}
    assert fixed == {"PORT": str(settings.port), "GRADIO_SERVER_PORT": str(settings.port),
                     "GRADIO_SERVER_NAME": settings.host}
    unset = {"OLMOE_MODEL": settings.model, "OLMOE_DTYPE": settings.dtype, "OLMOE_WEIGHTS": settings.weights,
             "OLMOE_BACKEND": settings.backend, "OLMOE_ENGINE": settings.engine,
             "OLMOE_ENGINE_KEY": settings.engine_key, "OLMOE_API_KEYS": settings.api_keys,
             "SPACE_ID": settings.on_space, "SPACES_ZERO_GPU": settings.on_zero_gpu}
    assert VARIABLES.keys() == fixed.keys() | unset.keys() and not any(unset.values())


def test_readme_lists_the_values_that_are_accepted():
    for name, values in (("OLMOE_DTYPE", DTYPES), ("OLMOE_WEIGHTS", WEIGHTS), ("OLMOE_BACKEND", BACKENDS)):
        assert set(re.findall(r"`(\w+)`", VARIABLES[name][0])) == set(values)


def test_readmes_limits_are_those_in_force():
    told = re.findall(r"^\| `(max_\w+)` \| (\d+) \|", README, flags=re.MULTILINE)
    in_force = {name: value for name, value in dataclasses.asdict(Settings()).items() if name.startswith("max_")}
    assert {name: int(value) for name, value in told} == in_force
