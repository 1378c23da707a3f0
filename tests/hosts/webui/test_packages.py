"""Optional packages in an environment that the test makes; with the package index where there is one."""

import json
import subprocess
import sys
import zipfile

import pytest

from lora_train.errors import Mistake
from lora_train.hosts.webui.packages import PACKAGES, Environment, Found, Packages, needed, pinned


class Fake(Environment):
    """pip on paper: `index` is what it would choose and install."""

    def __init__(self, here, index, complaints=()):
        super().__init__("python")
        self.here, self.index, self.later = dict(here), index, list(complaints)
        self.fails = False
        self.words = []

    def installed(self):
        return {n: Found(v, frozenset(r)) for n, (v, r) in self.here.items()}

    def complaints(self):
        return self.later.pop(0) if self.later else set()

    def wanted(self, name, pins):
        rows = [{"name": n, "version": v, "requires_dist": r} for n, (v, r) in self.index.items()]
        return needed(name, rows)

    def pip(self, *words):
        from lora_train.hosts.webui.packages import Outcome

        self.words.append(words)
        for word in [w for w in words[1:] if not w.startswith("-")]:
            name = word.split("==")[0]
            if words[0] == "install":
                self.here[name] = self.index[name]
                if self.fails:
                    return Outcome(1, "ERROR: No space left on device")
            else:
                del self.here[name]
        return Outcome(0, "")


HERE = {"torch": ("2.1.2", ()), "numpy": ("1.26.2", ())}
INDEX = {"lion-pytorch": ("1.0", ["torch", "small>=1"]), "small": ("3.0", []), "stray": ("1", [])}


@pytest.fixture
def made(tmp_path):
    def made(index=INDEX, **more):
        return Packages(Fake(HERE, index, **more), tmp_path / "desk" / "packages.json")

    return made


def test_a_package_comes_with_what_it_lacks_and_goes_with_it(made):
    packages = made()
    said = packages.install("lion-pytorch")
    row = next(row for row in said["packages"] if row["name"] == "lion-pytorch")
    assert (row["installed"], row["ours"], row["added"]) == ("1.0", True, ["lion-pytorch", "small"])
    assert "--no-deps" in packages.environment.words[0]
    assert "stray" not in packages.environment.here
    packages.uninstall("lion-pytorch")
    assert packages.environment.here == HERE
    assert not packages.ledger.exists()


def test_what_makes_pip_check_worse_is_undone(made):
    packages = made(complaints=[{"old trouble"}, {"old trouble", "a requires b, which is not installed."}])
    with pytest.raises(Mistake, match="a requires b"):
        packages.install("lion-pytorch")
    assert packages.environment.here == HERE
    assert not packages.ledger.exists()


def test_half_an_installation_is_undone(made):
    packages = made()
    packages.environment.fails = True
    with pytest.raises(Mistake, match=r"No space left on device\nlion-pytorch was taken out again"):
        packages.install("lion-pytorch")
    assert packages.environment.here == HERE


@pytest.mark.parametrize("heavy", ["torch", "nvidia-cublas-cu12", "numpy"])
def test_nothing_heavy_and_nothing_that_is_there_is_touched(made, heavy):
    packages = made({"rembg": ("2.0", [heavy]), heavy: ("9", [])})
    with pytest.raises(Mistake, match=heavy):
        packages.install("rembg")
    assert packages.environment.here == HERE
    assert not packages.environment.words


def test_what_another_has_come_to_need_stays(made):
    packages = made()
    packages.install("lion-pytorch")
    packages.environment.here["other"] = ("1", ("small",))
    packages.uninstall("lion-pytorch")
    assert set(packages.environment.here) == {*HERE, "other", "small"}


def test_what_was_there_before_is_not_removed(made):
    packages = made()
    packages.environment.here["wandb"] = ("0.1", ())
    with pytest.raises(Mistake, match="was not installed from here"):
        packages.uninstall("wandb")
    with pytest.raises(Mistake, match="installed already, version 0.1"):
        packages.install("wandb")


def test_only_packages_of_the_table_are_installed(made):
    with pytest.raises(Mistake, match="expected one of wandb, "):
        made().install("--index-url=http://elsewhere")


def test_two_at_a_time_are_refused(made):
    packages = made()
    with packages._alone("wandb"), pytest.raises(Mistake, match="wandb: is being installed or removed"):
        packages.install("lion-pytorch")


def test_pins_of_the_webui_are_read(tmp_path):
    (tmp_path / "r.txt").write_text("a==1.0\nB_c == 2.1  # why\ntorch\nd>=3\n\nhttps://x/y.whl\n")
    assert pinned(tmp_path / "r.txt") == {"a": "1.0", "b-c": "2.1"}
    assert pinned(tmp_path / "none.txt") == {}


@pytest.fixture(scope="module")
def venv(tmp_path_factory):
    """An environment with pip, and with a stand-in for torch so that no requirement of it is looked for."""
    folder = tmp_path_factory.mktemp("venv")
    made = subprocess.run([sys.executable, "-m", "venv", folder], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no environment can be made here: {made.stdout[-200:]}")
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    wheel = folder / "torch-2.1.2-py3-none-any.whl"
    files = {
        "torch.py": "", "torch-2.1.2.dist-info/METADATA": "Name: torch\nVersion: 2.1.2\n",
        "torch-2.1.2.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "torch-2.1.2.dist-info/RECORD": "torch.py,,\n",
    }  # fmt: skip
    with zipfile.ZipFile(wheel, "w") as file:
        for name, text in files.items():
            file.writestr(name, text)
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-index", wheel], check=True, capture_output=True
    )
    return str(python)


def test_for_real_a_small_package_is_put_in_and_taken_out(venv, tmp_path):
    packages = Packages(Environment(venv), tmp_path / "packages.json", {"absent": "1"})
    before, complaints = packages.environment.installed(), packages.environment.complaints()
    assert before["torch"].version == "2.1.2"
    try:
        packages.install("prodigyopt")
    except Mistake as e:
        if "cannot be reached" in str(e):
            pytest.skip(str(e))
        raise
    during = packages.environment.installed()
    assert "prodigyopt" in during
    assert {n: v for n, v in during.items() if n in before} == before
    assert list(json.loads(packages.ledger.read_text())) == ["prodigyopt"]
    subprocess.run([venv, "-c", "import importlib.util as u; assert u.find_spec('prodigyopt')"], check=True)
    packages.uninstall("prodigyopt")
    assert packages.environment.installed() == before
    assert packages.environment.complaints() == complaints


def test_without_a_connection_there_is_a_sentence(venv, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    packages = Packages(Environment(venv), tmp_path / "packages.json")
    before = packages.environment.installed()
    with pytest.raises(Mistake, match="lion-pytorch: the package index cannot be reached; try again with a"):
        packages.install("lion-pytorch")
    assert packages.environment.installed() == before
    assert not packages.ledger.exists()


def test_the_table_names_each_package_once():
    assert len({p.name for p in PACKAGES}) == len(PACKAGES)
