import pytest
from tiny_language_models import build_llama, build_tokenizer


@pytest.fixture
def tokenizer():
    return build_tokenizer()


@pytest.fixture
def llama():
    return build_llama().requires_grad_(False)
