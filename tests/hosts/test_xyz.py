"""Our axes in the WebUI's X/Y/Z plot, on what stands in for its script."""

import sys
import types

import pytest

from lora_train.errors import Mistake
from lora_train.hosts.webui import xyz
from lora_train.spelling import Book


class AxisOption:
    """As the script has it."""

    def __init__(
        self, label, type, apply, format_value=None, confirm=None, cost=0.0, choices=None, prepare=None
    ):
        self.label, self.type, self.apply, self.confirm = label, type, apply, confirm
        self.cost, self.choices, self.prepare = cost, choices, prepare


@pytest.fixture
def axes(monkeypatch):
    """Ours by their labels, after two times of being put there."""
    script = types.SimpleNamespace(AxisOption=AxisOption, axis_options=[AxisOption("Seed", int, None)])
    data = [types.SimpleNamespace(path="/webui/scripts/xyz_grid.py", module=script),
            types.SimpleNamespace(path="/webui/scripts/loopback.py", module=object())]  # fmt: skip
    modules = types.ModuleType("modules")
    modules.scripts = types.SimpleNamespace(scripts_data=data)
    networks = types.SimpleNamespace(available_networks={"style": 1, "Eyes": 2, "run": 3, "run-000001": 4})
    for name, module in (("modules", modules), ("modules.scripts", modules.scripts), ("networks", networks)):
        monkeypatch.setitem(sys.modules, name, module)
    drawn = ",".join(["1", *"RUX", *"1" * 8])
    monkeypatch.setattr(xyz, "book", lambda: Book({**Book().presets, "DRAWN": drawn}))
    monkeypatch.setattr(xyz, "_runs", lambda: {"run": ["run-000001", "run"]})
    xyz.ready()
    xyz.ready()
    labels = [option.label for option in script.axis_options]
    assert labels == ["Seed", *dict.fromkeys(labels[1:])]
    return {option.label: option for option in script.axis_options[1:]}


def cells(option, prompt, text, **more):
    """As the script's `run` does it: prompts for each value."""
    texts = option.prepare(text) if option.prepare else text.split(", ")
    values = [option.type(word) for word in texts]
    option.confirm(types.SimpleNamespace(prompt=prompt), values)
    made = []
    for value in values:
        p = types.SimpleNamespace(prompt=prompt, **more)
        option.apply(p, value, values)
        made.append(p.prompt)
    return made


ALL, OFF = ",".join(["1"] * 26), ",".join(["0"] * 26)
IN01 = ",".join("1" if i == 2 else "0" for i in range(26))
TWELVE = ",".join(["0,1"] * 6)


@pytest.mark.parametrize(
    ("axis", "prompt", "text", "made"),
    [
        ("File", "a <lora:x:0.5><lora:y:1>", "style, Eyes", ["a <lora:style:0.5><lora:y:1>",
                                                              "a <lora:Eyes:0.5><lora:y:1>"]),
        ("File", "a cat", "style", ["a cat<lora:style:1>"]),
        ("Checkpoint of a run", "<lora:x:1>", "run,style", ["<lora:run-000001:1>", "<lora:run:1>",
                                                            "<lora:style:1>"]),
        ("Strength", "<lora:x:1:2:lbw=MIDD>", "0, 0.5-1:0.25", [f"<lora:x:{v}:{v}:lbw=MIDD>"
                                                              for v in ("0", "0.5", "0.75", "1")]),
        ("TE strength", "<lora:x:0.7>", "0.1", ["<lora:x:0.1:0.7>"]),
        ("UNet strength", "<lyco:x>", "-1", ["<lyco:x:1:-1>"]),
        ("Block weights", "<lora:x:1>", "INS, OUTS", ["<lora:x:1:lbw=INS>", "<lora:x:1:lbw=OUTS>"]),
        ("Block weights", "<lora:x:1>", TWELVE, [f"<lora:x:1:lbw={TWELVE}>"]),
        ("Block weights", "<lora:x:1>", f"MIDD; {TWELVE}", ["<lora:x:1:lbw=MIDD>",
                                                            f"<lora:x:1:lbw={TWELVE}>"]),
        ("Block weights", "<lora:x:1:lbw=ALL><lora:y:1:lbw=XYZ><lora:z:1:lbw=ZYX>",
         "0.25,1,0,1,0,1,0,1,0,1,0,1", [
            "<lora:x:1:lbw=ALL><lora:y:1:lbw=0.25,1,0,1,0,1,0,1,0,1,0,1>"
            "<lora:z:1:lbw=0.75,0,1,0,1,0,1,0,1,0,1,0>"]),
        ("Block ID", "<lora:x:1>", "IN01", [f"<lora:x:1:lbw={IN01}>"]),
        ("Block ID", "<lora:x:1>", "NOT BASE-OUT11, BASE-OUT11", [f"<lora:x:1:lbw={OFF}>",
                                                                  f"<lora:x:1:lbw={ALL}>"]),
    ],
)  # fmt: skip
def test_a_value_changes_the_prompt(axes, axis, prompt, text, made):
    assert cells(axes[f"[LoRA] {axis}"], prompt, text) == made


def test_a_prompt_of_its_own_for_hires_fix_is_changed_too(axes):
    p = types.SimpleNamespace(prompt="<lora:x:1>", hr_prompt="big <lora:x:1>")
    axes["[LoRA] UNet strength"].apply(p, 0.5, [0.5])
    assert (p.prompt, p.hr_prompt) == ("<lora:x:1:0.5>", "big <lora:x:1:0.5>")


def test_presets_with_drawn_values_are_for_the_prompt_to_draw(axes):
    assert cells(axes["[LoRA] Block weights"], "<lora:x:1:lbw=XYZ>", "DRAWN") == ["<lora:x:1:lbw=DRAWN>"]


@pytest.mark.parametrize(
    ("axis", "prompt", "text", "complaint"),
    [
        ("File", "a", "stile", "File = stile: no LoRA of this name"),
        ("Strength", "a cat", "1", "Strength: expected a LoRA in the prompt"),
        ("Block weights", "<lora:x:1>", "INS, NONESUCH", "Block weights: .*expected 12, 17, 20 or 26"),
        ("Block weights", "<lora:x:1:lbw=XYZ><lora:y:1:lbw=ZYX>", f"MIDD; {','.join('R' * 12)}",
         "Block weights = R,.*: expected plain numbers"),
        ("Block weights", "<lora:x:1:lbw=ZYX>", "DRAWN", "= DRAWN: expected plain .* and 1,R,.* has others"),
        ("Block weights", "<lora:x:1:lbw=ZYX>", f"{TWELVE}|IN05:attn:0.5", "expected plain numbers"),
        ("Block ID", "<lora:x:1>", "IN12", "IN12: expected a block's id"),
    ],
)  # fmt: skip
def test_wrong_values_are_refused_before_the_first_picture(axes, axis, prompt, text, complaint):
    with pytest.raises(Mistake, match=complaint):
        cells(axes[f"[LoRA] {axis}"], prompt, text)


def test_what_can_be_chosen_is_listed(axes):
    assert axes["[LoRA] File"].choices() == ["Eyes", "run", "run-000001", "style"]
    assert axes["[LoRA] Checkpoint of a run"].choices() == ["run-000001", "run"]
    assert axes["[LoRA] Block ID"].choices is None
