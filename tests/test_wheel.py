"""The wheel: installed alone it has its command and its configs."""

import os
import subprocess
import sys
import venv
from pathlib import Path

from support import ROOT


def test_a_wheel_has_its_command_and_its_configs(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True)
    # What it depends on is taken from here; the package itself must be the wheel's.
    here = next(path for path in sys.path if path.endswith("site-packages"))
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(here + "\n")
    script = tmp_path / "env" / "bin" / "vlmmerge"

    def run(*arguments: str) -> str:
        return subprocess.run(
            [script, *arguments],
            check=True,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": ""},
        ).stdout

    assert "vlmmerge <verb>" in run("--help")
    assert "task_arithmetic" in run("ls", "method")
    assert "popsize" in run("search", "--help")
    where = "import vlmmerge.config as c; print(c.CONF)"
    found = subprocess.run(
        [python, "-c", where], check=True, capture_output=True, text=True, cwd=tmp_path
    ).stdout.strip()
    assert found == str(site / "vlmmerge" / "conf")
