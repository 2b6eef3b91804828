"""The encoder on small models with random weights, against transformers itself."""

import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from skmm.vision import CrossAttentionDistiller, VisionLanguageEncoder, render_text
from skmm.vision import _encoder as module

GRIDS = {"fixed": (4, 4), "naflex": (4, 6)}
# Sums of some hundred float32 terms of size one, in another order.
CLOSE = {"rtol": 0, "atol": 2e-5}


def kind(folder):
    return "naflex" if "naflex" in folder else "fixed"


def test_equals_transformers(folder, photos):
    from transformers import AutoImageProcessor, AutoModel

    encoder = VisionLanguageEncoder(folder, device="cpu", batch_size=5)
    features = encoder.fit_transform(photos)
    whole = AutoModel.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    images = [Image.fromarray(photo) for photo in photos]
    with torch.inference_mode():
        inputs = processor(images=images, return_tensors="pt")
        expected = whole.vision_model(**inputs).last_hidden_state
    rows, columns = GRIDS[kind(folder)]
    assert encoder.grid_ == (rows, columns)
    assert encoder.n_patches_ == rows * columns
    assert encoder.n_channels_ == 32
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected[:, : rows * columns], **CLOSE)


def test_images_in_every_form(folder, photos, tmp_path):
    encoder = VisionLanguageEncoder(folder, device="cpu")
    features = encoder.fit_transform(photos)
    paths = [tmp_path / f"{i}.png" for i in range(len(photos))]
    for path, photo in zip(paths, photos, strict=True):
        Image.fromarray(photo).save(path)
    for X in (
        list(photos),
        [Image.fromarray(photo) for photo in photos],
        paths,
        np.array([str(path) for path in paths]),
        np.array(paths, dtype=object),
    ):
        np.testing.assert_allclose(encoder.fit_transform(X), features, **CLOSE)
    gray = Image.fromarray(photos[0]).convert("L")
    assert encoder.transform([gray]).shape == features[:1].shape


def test_images_do_not_depend_on_each_other(folder, photos):
    encoder = VisionLanguageEncoder(folder, device="cpu")
    features = encoder.fit_transform(photos)
    np.testing.assert_allclose(encoder.transform(photos[3:5]), features[3:5], **CLOSE)
    one = clone(encoder).set_params(batch_size=1).fit(photos)
    np.testing.assert_allclose(one.transform(photos), features, **CLOSE)


def test_images_of_other_shapes_have_the_same_grid(folder, photos):
    encoder = VisionLanguageEncoder(folder, device="cpu").fit(photos)
    tall = [Image.new("RGB", (20, 90)), Image.new("RGB", (300, 10)), photos[0]]
    features = encoder.transform(tall)
    assert features.shape == (3, encoder.n_patches_, 32)
    np.testing.assert_allclose(features[2:], encoder.transform(photos[:1]), **CLOSE)


def test_missing_images(folder, photos):
    encoder = VisionLanguageEncoder(folder, device="cpu")
    features = encoder.fit_transform(photos)
    X = [None, *photos[:2], float("nan"), photos[2]]
    some = encoder.fit_transform(X)
    assert np.isnan(some[[0, 3]]).all()
    np.testing.assert_allclose(some[[1, 2, 4]], features[:3], **CLOSE)
    scores = CrossAttentionDistiller(n_nodes=3, random_state=0).fit_transform(some)
    assert np.isnan(scores[[0, 3]]).all()
    assert np.isfinite(scores[[1, 2, 4]]).all()


def test_text_goes_the_way_of_images(folder, photos):
    texts = ["red beak", "long tail", "white belly"]
    encoder = VisionLanguageEncoder(folder, device="cpu", batch_size=2)
    prototypes = encoder.encode_text(texts)
    side = 32
    images = render_text(texts, side)
    features = clone(encoder).fit_transform(images)
    np.testing.assert_allclose(prototypes, features.mean(1), **CLOSE)
    # Whatever it was fitted on.
    again = encoder.fit(photos).encode_text(texts)
    np.testing.assert_array_equal(prototypes, again)
    np.testing.assert_allclose(encoder.encode_text("red beak"), again[:1], **CLOSE)


def test_number_of_patches(naflex, photos):
    encoder = VisionLanguageEncoder(naflex, device="cpu", max_num_patches=10)
    assert encoder.fit(photos).n_patches_ <= 10
    assert encoder.transform(photos).shape[1] == encoder.n_patches_
    assert encoder.encode_text("beak").shape == (1, 32)


def test_half_precision_is_close(folder, photos):
    exact = VisionLanguageEncoder(folder, device="cpu").fit_transform(photos)
    half = VisionLanguageEncoder(folder, device="cpu", dtype="bfloat16")
    features = half.fit_transform(photos)
    assert features.dtype == np.float32
    assert np.abs(features - exact).max() > 0
    # bfloat16 has eight bits; outputs of a normalisation are of size one.
    assert np.abs(features - exact).mean() < 0.03


def test_tower_is_no_part_of_a_pickle(folder, photos, monkeypatch):
    encoder = VisionLanguageEncoder(folder, device="cpu").fit(photos)
    features = encoder.transform(photos)
    dumped = pickle.dumps(encoder)
    assert len(dumped) < 1000
    module._load.cache_clear()
    again = pickle.loads(dumped)
    np.testing.assert_array_equal(again.transform(photos), features)
    assert clone(encoder).get_params() == encoder.get_params()
    assert not hasattr(clone(encoder), "grid_")


def test_tower_is_loaded_once(folder, photos):
    module._load.cache_clear()
    VisionLanguageEncoder(folder, device="cpu").fit_transform(photos)
    clone(VisionLanguageEncoder(folder, device="cpu")).fit_transform(photos)
    assert module._load.cache_info().misses == 1


def test_vision_model_alone_and_class_token(photos, tmp_path):
    from transformers import SiglipImageProcessorPil, ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    with torch.random.fork_rng():
        model = ViTModel(config)
    model.save_pretrained(tmp_path)
    processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    encoder = VisionLanguageEncoder(tmp_path, device="cpu")
    features = encoder.fit_transform(photos)
    assert features.shape == (12, 16, 16)
    images = [Image.fromarray(photo) for photo in photos]
    with torch.inference_mode():
        tokens = model.eval()(**processor(images=images, return_tensors="pt"))
    np.testing.assert_allclose(features, tokens.last_hidden_state[:, 1:], **CLOSE)


def test_inside_a_pipeline(folder, photos):
    y = np.arange(12) % 2
    bright = photos.copy()
    bright[y == 1] //= 4
    pipeline = make_pipeline(
        VisionLanguageEncoder(folder, device="cpu"),
        CrossAttentionDistiller(n_nodes=3, random_state=0),
        LogisticRegression(C=100),
    )
    assert cross_val_score(pipeline, list(bright), y, cv=3).mean() == 1
    names = pipeline.fit(bright, y)[:-1].get_feature_names_out()
    assert list(names) == ["node0", "node1", "node2"]
    frame = pipeline[:-1].set_output(transform="pandas").transform(bright)
    assert list(frame.columns) == list(names)


def test_network_is_left_quiet(folder, photos, capfd, recwarn, global_rng_untouched):
    from transformers.utils import logging

    module._load.cache_clear()
    level = logging.get_verbosity()
    VisionLanguageEncoder(folder, device="cpu").fit_transform(photos)
    assert capfd.readouterr() == ("", "")
    assert not len(recwarn)
    assert logging.get_verbosity() == level
    assert logging.is_progress_bar_enabled()


@pytest.mark.parametrize(
    ("X", "error", "match"),
    [
        (np.zeros((2, 8, 8, 3)), TypeError, r"X: expected type uint8.*float64"),
        (np.zeros((2, 8, 8), "uint8"), ValueError, r"X: expected shape .*\(2, 8, 8\)"),
        (np.zeros((2, 8, 8, 4), "uint8"), ValueError, r"transparency"),
        ([np.zeros((8, 8), "uint8")], ValueError, r"X\[0\]: expected shape"),
        ("bird.png", TypeError, r"got str. Put a single one into a list"),
        ([], ValueError, r"X: expected at least one image, got none"),
        ([None], ValueError, r"X: expected an image, got missing ones only"),
        (["no such.png"], FileNotFoundError, r"path of an image at 0.*'no such.png'"),
        ([3], TypeError, r"X: expected arrays, Pillow's images or paths, got int at 0"),
    ],
)
def test_bad_images(X, error, match, fixed):
    with pytest.raises(error, match=match):
        VisionLanguageEncoder(fixed, device="cpu").fit(X)


def test_file_that_is_no_image(fixed, tmp_path):
    path = tmp_path / "text.png"
    path.write_text("no image")
    with pytest.raises(OSError, match=r"path of an image at 0.*cannot be read"):
        VisionLanguageEncoder(fixed, device="cpu").fit([path])


@pytest.mark.parametrize("name", ["nobody/nothing", os.sep + "nowhere"])
def test_model_that_cannot_be_had(name, photos):
    with pytest.raises(OSError, match=rf"(?s)model: expected .* got '{name}'.*on disk"):
        VisionLanguageEncoder(name, device="cpu").fit(photos)


def test_model_without_eyes(photos, tmp_path):
    from transformers import BertConfig

    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model: expected one that sees images.*bert"):
        VisionLanguageEncoder(tmp_path, device="cpu").fit(photos)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"model: expected one that sees images"):
        VisionLanguageEncoder(tmp_path, device="cpu").fit(photos)


def test_weights_that_are_not_all_there(fixed, photos, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(fixed, tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in weights if "vision_model.encoder" in name)
    del weights[gone]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=r"model: expected weights for the whole.*1 of"
    ):
        VisionLanguageEncoder(tmp_path, device="cpu").fit(photos)


def test_weights_in_pickles_are_refused(fixed, photos, tmp_path):
    from safetensors.torch import load_file

    shutil.copytree(fixed, tmp_path, dirs_exist_ok=True)
    torch.save(
        load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin"
    )
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"model: .*safetensors"):
        VisionLanguageEncoder(tmp_path, device="cpu").fit(photos)


def test_bad_parameters(fixed, photos):
    with pytest.raises(ValueError, match=r"device: expected 'auto', 'cpu'.*'gpu'"):
        VisionLanguageEncoder(fixed, device="gpu").fit(photos)
    with pytest.raises(ValueError, match=r"'dtype' parameter"):
        VisionLanguageEncoder(fixed, dtype="int8").fit(photos)
    with pytest.raises(ValueError, match=r"'batch_size' parameter"):
        VisionLanguageEncoder(fixed, batch_size=0).encode_text("beak")


@pytest.mark.parametrize("package", ["transformers", "PIL"])
def test_extra_that_is_not_installed(fixed, photos, package, monkeypatch):
    module._load.cache_clear()
    for name in (package, f"{package}.Image"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(ImportError, match=r'pip install "skmm\[vision\]"'):
        VisionLanguageEncoder(fixed, device="cpu").fit(photos)


@pytest.mark.gpu
def test_gpu_is_close(folder, photos):
    exact = VisionLanguageEncoder(folder, device="cpu").fit_transform(photos)
    features = VisionLanguageEncoder(folder, device="cuda").fit_transform(photos)
    np.testing.assert_allclose(features, exact, rtol=0, atol=1e-2)
