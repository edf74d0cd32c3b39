"""A tiny byte-level tokenizer with the files of a Hugging Face folder."""

import json

import pytest
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from tdpipe.text.tokenizer import Tokenizer

SPECIAL = ["<s>", "</s>", "<|user|>"]
CORPUS = [
    "The quick brown fox jumps over the lazy dog, and then it stops. STOP here?",
    "café naïve über straße \N{EURO SIGN}5 日本語 日本 "
    "\N{GRINNING FACE}\N{GRINNING FACE} ok\n\nnext",
] * 4
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}\n"
    "    {%- if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('roles must be system, user or assistant') }}{% endif %}\n"
    "    {%- if loop.index > 3 %}{% break %}{% endif %}\n"
    "    {% if message.role == 'system' %}\n"
    "[{{ message.content | trim | tojson }}]\n"
    "    {% else %}\n"
    "<|user|>{{ message['role'] }}: {{ message['content'] }}{{ eos_token }}\n"
    "    {% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}answer:{% endif %}"
    "{% if mood is defined %} {{ mood }}{% endif %}{{ strftime_now('%Y') | length }}"
)


def byte_level(post_processor=None) -> FastTokenizer:
    tokenizer = FastTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if post_processor is not None:
        tokenizer.post_processor = post_processor
    return tokenizer


def begin_with_bos() -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )


POST_PROCESSORS = {
    None: lambda: None,
    "adds <s>": begin_with_bos,
    "adds nothing": lambda: processors.ByteLevel(trim_offsets=False),
}


def write_folder(folder, tokenizer, **settings):
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": {"__type": "AddedToken", "content": "<s>", "special": True},
        "eos_token": "</s>",
        **settings,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A folder with a chat template, and no tokens added to a prompt."""
    path = tmp_path_factory.mktemp("model")
    return write_folder(path, byte_level(), chat_template=TEMPLATE)


@pytest.fixture(scope="session")
def tokenizer(folder) -> Tokenizer:
    return Tokenizer(folder)


@pytest.fixture
def make_folder(tmp_path_factory):
    """Makes a folder with this post-processor and these tokenizer settings."""

    def make(post_processor=None, **settings):
        folder = tmp_path_factory.mktemp("model")
        return write_folder(folder, byte_level(POST_PROCESSORS[post_processor]()), **settings)

    return make
