"""The peers of the HTTP benchmark: each is installed into an environment of its own under `build/peers`, once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "build" / "peers"
PACKAGES = {"litellm": "litellm[proxy]", "tensorzero": "tensorzero"}
INSTALL_S = 900.0

LITELLM = """\
model_list:
  - model_name: mock
    litellm_params: {{model: openai/mock, api_base: "{url}", api_key: sk-none}}
litellm_settings: {{telemetry: false}}
"""
TENSORZERO = """\
[gateway]
observability.enabled = false

[models.mock]
routing = ["mock"]

[models.mock.providers.mock]
type = "openai"
model_name = "mock"
api_base = "{url}"
api_key_location = "none"
"""


def install(name: str) -> Path | None:
    """The interpreter of a peer's environment; None where it cannot be installed here."""
    home = FOLDER / name
    python, stamp = home / "bin" / "python", home / ".installed"
    if stamp.exists():
        return python
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, timeout=INSTALL_S)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGES[name]]
        subprocess.run(command, check=True, timeout=INSTALL_S)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"{name}: not run, it cannot be installed here ({type(error).__name__})")
        return None
    stamp.touch()
    return python
