"""What every host has to do, asked of the stand-in for the WebUI."""

import pytest

from lora_train.host import Model
from lora_train.hosts.webui.host import WebuiHost
from tests.hosts.contract import Contract

pytest.importorskip("ldm", reason="the WebUI's model classes are not here: stable-diffusion-sdkit")
pytest.importorskip("einops")
pytest.importorskip("transformers")

from tests.hosts.standin.world import world  # noqa: E402


@pytest.fixture(scope="module")
def webui(tmp_path_factory):
    with world(tmp_path_factory.mktemp("webui")) as made:
        yield made


class TestContract(Contract):
    @pytest.fixture
    def lent(self, webui):
        with webui.call_queue.queue_lock, WebuiHost().borrow(Model(), device="auto", precision="no") as lent:
            yield lent
