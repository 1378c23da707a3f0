"""What is painted on the page becomes a mask, or goes; and what lacks of regularisation is said there."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("httpx")

from tests.ui.test_dataset_routes import asked, folder, own, worked  # noqa: E402, F401 (fixtures)
from tests.ui.test_tool_routes import client, desk, posted  # noqa: E402, F401 (fixtures)


@pytest.fixture
def painted():
    """Drawn smaller than the picture, as on a large one."""
    file, mask = io.BytesIO(), Image.new("RGB", (320, 240))
    mask.paste((255, 255, 255), (100, 100, 140, 120))
    mask.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def test_a_painting_becomes_a_mask_and_is_undone(client, folder, painted):  # noqa: F811
    worked(client, "mask", folder, by="painted", painted=painted, names=["picture 0.png"])
    with Image.open(folder / "picture 0-masklabel.png") as mask:
        found = np.asarray(mask)
    assert found.shape == (480, 640)
    assert found[210, 240] == 255
    assert not found[300:].any()
    asked(client, "undo", folder)
    assert not (folder / "picture 0-masklabel.png").exists()


def test_a_painted_place_goes(client, folder, painted):  # noqa: F811
    pytest.importorskip("cv2")
    image = Image.new("RGB", (640, 480), (0, 90, 120))
    image.paste((255, 0, 0), (210, 205, 270, 235))
    image.save(folder / "picture 0.png")
    worked(client, "erase", folder, painted=painted, names=["picture 0.png"])
    with Image.open(folder / "picture 0.png") as image:
        assert np.abs(np.asarray(image).astype(int) - (0, 90, 120)).max() <= 5


def test_what_lacks_is_said_with_the_balance(client, folder):  # noqa: F811
    values = {"folder": str(folder), "class_prompt": "a girl", "num_class_images": 5}
    look = posted(client, "/dataset/works/regularise/look", values=values).json()
    assert (look["complaints"], look["of"], look["count"]) == ([], 3, 5)
    assert (look["balance"]["samples"], look["balance"]["class"]) == (3, 0)
    look = posted(client, "/dataset/works/regularise/look", values={"folder": str(folder)}).json()
    assert "num_class_images" in look["complaints"][0]
