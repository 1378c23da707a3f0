"""What the button Send to dataset makes of a prompt."""

from lora_train.hosts.webui.send import caption, free, prompt_of


def test_the_prompt_is_what_stands_before_the_settings():
    assert prompt_of("a cat\non a mat\nNegative prompt: dog\nSteps: 20, Sampler: Euler") == "a cat\non a mat"
    assert prompt_of("a cat\nSteps: 20, Sampler: Euler") == "a cat"
    assert prompt_of("Negative prompt: dog\nSteps: 20") == ""
    assert prompt_of("") == ""


def test_a_caption_has_the_words_and_no_syntax():
    assert caption("(a cat:1.3), [red] <lora:ink:0.8>, on\na BREAK mat \\(old\\),, ") == (
        "a cat, red, on a mat (old)"
    )


def test_numbers_go_on_where_the_folder_ends(tmp_path):
    assert free(tmp_path) == 1
    for name in ("00007.png", "other.png", "00003.txt"):
        (tmp_path / name).touch()
    assert free(tmp_path) == 8
