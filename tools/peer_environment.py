"""The peer mergekit in an environment of its own: its packages never meet ours.

It lies in build/peers/mergekit and is made once; VLMMERGE_PEER_MERGEKIT names the python of one
that is there already. mergekit is LGPL: it is run as another program; nothing of it is copied, and
nothing of ours imports it.
"""

import os
import shutil
import subprocess
import venv
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
HOME = ROOT / "build" / "peers" / "mergekit"
MERGEKIT = "mergekit==0.1.5"
# What it needs and constraints.txt does not name.
CONSTRAINTS = ("immutables==0.21", "sentencepiece==0.2.3", "protobuf==7.36.2")


def mergekit_python() -> Path:
    """The python of an environment with mergekit, made first where there is none."""
    if named := os.environ.get("VLMMERGE_PEER_MERGEKIT"):
        return Path(named)
    wanted = "\n".join((MERGEKIT, *CONSTRAINTS))
    python, made = HOME / "bin" / "python", HOME / "installed"
    if not made.exists() or made.read_text(encoding="utf-8") != wanted:
        shutil.rmtree(HOME, ignore_errors=True)
        venv.create(HOME, with_pip=True)
        more = HOME / "constraints.txt"
        more.write_text("\n".join(CONSTRAINTS), encoding="utf-8")
        pins = ["-c", str(ROOT / "constraints.txt"), "-c", str(more)]
        install = [str(python), "-m", "pip", "install", "--quiet", *pins, MERGEKIT]
        subprocess.run(install, check=True)
        made.write_text(wanted, encoding="utf-8")
    return python


def run_peer(script: Path, *arguments: str, said: str = "", **env: str) -> str:
    """Run a script of ours with the peer's python, `said` on its stdin; what it printed.

    It runs offline, on one thread, without our packages on its path.
    """
    done = subprocess.run(
        [str(mergekit_python()), str(script), *arguments],
        input=said,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**_outside(os.environ), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **env},
    )
    return done.stdout


def _outside(environ: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in environ.items() if key != "PYTHONPATH"}
