"""Small vision-language models with random weights, in folders, and no network."""

import numpy as np
import pytest
import torch

VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
# Token numbers within the vocabulary, or transformers says they are not.
TEXT = VISION | {
    "vocab_size": 50,
    "max_position_embeddings": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
PATCH, SIDE = 8, 32


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def fixed(tmp_path_factory):
    """A SigLIP 2 of one resolution: 4 x 4 patches. It has the classes of SigLIP."""
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    folder = tmp_path_factory.mktemp("fixed")
    config = SiglipConfig(
        text_config=TEXT,
        vision_config=VISION | {"image_size": SIDE, "patch_size": PATCH},
    )
    return _save(SiglipModel, config, folder, SiglipImageProcessorPil, SIDE)


@pytest.fixture(scope="session")
def naflex(tmp_path_factory):
    """A SigLIP 2 of variable resolution: up to 24 patches."""
    from transformers import Siglip2Config, Siglip2Model
    from transformers.models.siglip2.image_processing_pil_siglip2 import (
        Siglip2ImageProcessorPil,
    )

    folder = tmp_path_factory.mktemp("naflex")
    config = Siglip2Config(
        text_config=TEXT,
        vision_config=VISION | {"num_patches": 16, "patch_size": PATCH},
    )
    return _save(Siglip2Model, config, folder, Siglip2ImageProcessorPil, None)


@pytest.fixture(params=["fixed", "naflex"])
def folder(request):
    return request.getfixturevalue(request.param)


def _save(model, config, folder, processor, side):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model(config).save_pretrained(folder)
    if side is None:
        processor(patch_size=PATCH, max_num_patches=24).save_pretrained(folder)
    else:
        processor(size={"height": side, "width": side}).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def photos():
    """Twelve images of 40 x 60 pixels."""
    rng = np.random.default_rng(0)
    return rng.integers(256, size=(12, 40, 60, 3)).astype(np.uint8)
