"""The tokenizer gives what transformers gives, and refuses what it cannot take."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tdpipe.core.errors import ConfigError, RequestRejected
from tdpipe.text.tokenizer import Tokenizer

SOURCE = Path(__file__).parents[3] / "src"
TALK = [
    {"role": "system", "content": ' Be <brief> & "kind". '},
    {"role": "user", "content": "Say caf\u00e9\n  twice."},
]


@pytest.fixture(scope="session")
def reference(folder):
    return AutoTokenizer.from_pretrained(folder)


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_ids_are_those_of_transformers(tokenizer, reference, text):
    token_ids = tokenizer.encode(text)
    assert token_ids == reference(text)["input_ids"]
    assert tokenizer.decode(token_ids) == reference.decode(token_ids, skip_special_tokens=True)


@pytest.mark.parametrize("post_processor", ["adds <s>", "adds nothing"])
@pytest.mark.parametrize("settings", [{}, {"add_bos_token": False}, {"add_bos_token": True}])
def test_the_post_processor_decides_about_special_tokens(make_folder, post_processor, settings):
    folder = make_folder(post_processor, **settings)
    tokenizer, reference = Tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    plain = tokenizer.encode("the dog", add_special_tokens=False)
    expected = [0, *plain] if post_processor == "adds <s>" else plain
    assert tokenizer.encode("the dog") == reference("the dog")["input_ids"] == expected


def test_settings_add_a_beginning_token_where_there_is_no_post_processor(make_folder):
    tokenizer = Tokenizer(make_folder(add_bos_token=True))
    plain = tokenizer.encode("the dog", add_special_tokens=False)
    assert tokenizer.encode("the dog") == [0, *plain]
    assert tokenizer.encode("<s>the dog") == [0, *plain]
    assert plain[0] != 0


def test_special_tokens_in_text_are_recognised_and_skipped_in_output(tokenizer):
    token_ids = tokenizer.encode("<|user|>hi</s>")
    assert token_ids[0] == 2 and token_ids[-1] == tokenizer.eos_token_id == 1
    assert tokenizer.decode(token_ids) == "hi"
    assert tokenizer.decode(token_ids, skip_special_tokens=False) == "<|user|>hi</s>"


def test_a_batch_is_encoded_as_its_texts_are(tokenizer):
    texts = ["the dog", "", "caf\u00e9 \u65e5\u672c"]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]
    assert tokenizer.encode_batch([]) == []


def test_prompts_are_not_cut_or_filled_up(make_folder):
    folder = make_folder()
    whole = Tokenizer(folder).encode_batch(["the quick brown fox", "a"])
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["truncation"] = {
        "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0
    }  # fmt: skip
    content["padding"] = {
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>",
    }  # fmt: skip
    path.write_text(json.dumps(content))
    assert Tokenizer(folder).encode_batch(["the quick brown fox", "a"]) == whole


@pytest.mark.parametrize("text", [None, 5, b"bytes", ["a", "b"], ("a", "b"), "a\ud800"])
def test_what_is_no_text_is_rejected(tokenizer, text):
    with pytest.raises(RequestRejected) as caught:
        tokenizer.encode(text)
    assert caught.value.field == "prompt"
    str(caught.value).encode()  # can be written to a file
    with pytest.raises(RequestRejected):
        tokenizer.encode_batch(["fine", text])


@pytest.mark.parametrize("texts", ["abc", None, {"a": 1}])
def test_a_batch_must_be_a_list(tokenizer, texts):
    with pytest.raises(RequestRejected, match="list of strings"):
        tokenizer.encode_batch(texts)


# ---- conversations


@pytest.mark.parametrize(
    "talk",
    [
        TALK,
        TALK[1:],
        [*TALK, {"role": "assistant", "content": "caf\u00e9"}, TALK[1], TALK[1]],
        [{"role": "user", "content": "a </s> <|user|> {{ b }} <&'"}],
    ],
)
@pytest.mark.parametrize("variables", [{}, {"mood": "calm"}, {"add_generation_prompt": False}])
def test_conversations_are_those_of_transformers(tokenizer, reference, talk, variables):
    wanted = {"add_generation_prompt": True, **variables}
    expected = reference.apply_chat_template(talk, tokenize=True, **wanted)["input_ids"]
    assert tokenizer.encode_chat(talk, **variables) == expected


def test_a_template_file_comes_before_the_settings(make_folder):
    folder = make_folder("adds <s>", chat_template="{{ messages[0].content }} settings")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }} file")
    tokenizer = Tokenizer(folder)
    token_ids = tokenizer.encode_chat(TALK[1:])
    assert tokenizer.decode(token_ids).endswith("twice. file")
    # The template writes special tokens, the post-processor does not.
    assert token_ids[0] != 0


def test_the_default_of_several_templates_is_used(make_folder):
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    tokenizer = Tokenizer(make_folder(chat_template=named))
    assert tokenizer.decode(tokenizer.encode_chat(TALK)) == "plain"


@pytest.mark.parametrize(
    "talk",
    [
        None, "hello", [], ["hello"], [{"content": "a"}], [{"role": "user"}],
        [{"role": 1, "content": "a"}], [{"role": "user", "content": 5}],
        [{"role": "wizard", "content": "a"}], [{"role": "user", "content": "\ud800"}],
    ],
)  # fmt: skip
def test_bad_conversations_are_rejected(tokenizer, talk):
    with pytest.raises(RequestRejected):
        tokenizer.encode_chat(talk)


def test_the_template_gives_the_reason(tokenizer):
    with pytest.raises(RequestRejected, match="roles must be system, user or assistant"):
        tokenizer.encode_chat([{"role": "wizard", "content": "a"}])


@pytest.mark.parametrize("talk", [TALK, None])
def test_without_a_template_conversations_are_rejected_and_prompts_work(make_folder, talk):
    tokenizer = Tokenizer(make_folder())
    with pytest.raises(RequestRejected, match="no chat template"):
        tokenizer.encode_chat(talk)
    assert tokenizer.decode(tokenizer.encode("the dog")) == "the dog"


def test_a_broken_template_stops_conversations_only(make_folder):
    tokenizer = Tokenizer(make_folder(chat_template="{% if %}"))
    assert tokenizer.encode("the dog")
    with pytest.raises(ConfigError, match="not valid jinja"):
        tokenizer.encode_chat(TALK)


# ---- folders


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_unreadable_files_are_named(make_folder, name):
    folder = make_folder()
    (folder / name).write_text("{")
    with pytest.raises(ConfigError, match=name):
        Tokenizer(folder)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no usable tokenizer"):
        Tokenizer(tmp_path)


def test_older_folders_are_read_through_transformers(make_folder, tmp_path):
    folder = make_folder(tokenizer_class="GPT2Tokenizer")
    expected = Tokenizer(folder).encode("the quick dog")
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    (tmp_path / "tokenizer_config.json").write_text((folder / "tokenizer_config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert Tokenizer(tmp_path).encode("the quick dog") == expected


def test_importing_it_is_light():
    code = (
        f"import sys; sys.path.insert(0, {str(SOURCE)!r}); import tdpipe.text.tokenizer; "
        "import tdpipe.text.stop_strings; "
        "print(sorted({'torch', 'transformers', 'jinja2', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
