import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.digests import file_digest
from storage.errors import MissingTargetError, ProvenanceMismatchError
from student.inference.open_vocabulary import (
    StoredFeatureBasis,
    TextEncoder,
    class_cosine,
    class_probability,
    fit_softmax_temperature,
)
from student.inference.prompts import PromptSet, occ3d_prompts, query_prompts

SEEDS = st.integers(min_value=0, max_value=2**32 - 1)


def make_basis(generator, dimension=20, channels=5, shift=3.0):
    components, _ = np.linalg.qr(generator.normal(size=(dimension, channels)))
    return StoredFeatureBasis(
        mean=(shift * generator.normal(size=dimension)).astype(np.float32),
        components=components.astype(np.float32),
        minimum=(-1 - generator.random(channels)).astype(np.float32),
        maximum=(1 + generator.random(channels)).astype(np.float32),
    )


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS)
def test_the_cosine_is_that_of_the_reconstructed_features(seed):
    generator = np.random.default_rng(seed)
    basis = make_basis(generator)
    reduced = generator.random((7, 5)).astype(np.float32)
    texts = unit(generator.normal(size=(3, 20))).astype(np.float32)
    expected = unit(basis.reconstruct(reduced)) @ texts.T
    np.testing.assert_allclose(basis.cosine(reduced, texts), expected, atol=1e-5)


def test_a_cosine_in_the_reduced_space_would_rank_words_differently():
    """The defect this module exists to avoid really changes answers."""
    generator = np.random.default_rng(0)
    basis = make_basis(generator)
    reduced = generator.random((200, 5)).astype(np.float32)
    texts = unit(generator.normal(size=(4, 20))).astype(np.float32)
    reduced_texts = ((texts - basis.mean) @ basis.components - basis.minimum) / (basis.maximum - basis.minimum)
    naive = unit(reduced) @ unit(reduced_texts).T
    assert np.mean(naive.argmax(axis=1) != basis.cosine(reduced, texts).argmax(axis=1)) > 0.2


def test_reconstruction_inverts_the_reduction_of_features_in_the_span():
    generator = np.random.default_rng(1)
    basis = make_basis(generator)
    features = basis.mean + generator.normal(size=(6, 5)).astype(np.float32) @ basis.components.T
    reduced = ((features - basis.mean) @ basis.components - basis.minimum) / (basis.maximum - basis.minimum)
    np.testing.assert_allclose(basis.reconstruct(reduced), features, atol=1e-4)
    with pytest.raises(ValueError, match="channels"):
        basis.reconstruct(np.zeros((2, 4), dtype=np.float32))


def test_an_undefined_feature_gives_an_undefined_cosine():
    generator = np.random.default_rng(2)
    reduced = generator.random((2, 5)).astype(np.float32)
    reduced[0, 3] = np.nan
    cosine = make_basis(generator).cosine(reduced, unit(generator.normal(size=(2, 20))).astype(np.float32))
    assert np.isnan(cosine[0]).all()
    assert np.isfinite(cosine[1]).all()


def test_occ3d_prompts_cover_every_class_and_only_pixels_know_the_sky():
    voxels, pixels = occ3d_prompts(with_sky=False), occ3d_prompts(with_sky=True)
    assert (len(voxels.names), len(pixels.names)) == (17, 18)
    assert pixels.names[-1] == "sky"
    assert ("aircraft", "airplane", "plane", "jet") in voxels.concepts[0]
    assert len(voxels.flat_concepts) == len(voxels.concept_classes)
    assert set(voxels.concept_classes) == set(range(17))
    assert voxels.sentence("car") == "a photo of a car"


def test_a_query_does_not_compete_with_its_own_synonyms():
    prompts = query_prompts("automobile")
    assert prompts.names[0] == "automobile"
    assert "car" not in prompts.names
    assert {"truck", "sky", "vegetation"} <= set(prompts.names)
    assert len(prompts.names) == 18  # the query instead of its class
    assert "truck" not in query_prompts("truck").names[1:]  # nor its fuel and catering trucks
    pole = query_prompts("pole")
    manmade = pole.concepts[pole.names.index("manmade")]
    assert ("building", "house", "facade") in manmade
    assert not any("pole" in words for words in manmade)
    assert len(query_prompts("purple elephant").names) == 19
    assert query_prompts("  red   door ", negatives=("wall", "sky")).names == ("red door", "wall", "sky")
    with pytest.raises(ValueError, match="at least one word"):
        query_prompts("  ")
    for rival in ("car", "a car", "Cars", "an automobile"):
        with pytest.raises(ValueError, match="own negatives"):
            query_prompts("Car", negatives=(rival,))


@pytest.mark.parametrize("text", ["a car", "The car", "cars", "red car", "a  red\n car"])
def test_an_article_a_plural_or_an_adjective_does_not_make_the_class_a_rival(text):
    prompts = query_prompts(text)
    assert prompts.names[0] == " ".join(text.split()).lower().removeprefix("a ").removeprefix("the ")
    assert prompts.names[1:] == query_prompts("car").names[1:]


@pytest.mark.parametrize("text", ["[red]car[/red]", "<b>car</b>", "{car}", "car\x1b[31m", "car\u202e"])
def test_markup_and_what_cannot_be_printed_are_refused(text):
    with pytest.raises(ValueError, match="plain words"):
        query_prompts(text)
    with pytest.raises(ValueError, match="plain words"):
        query_prompts("car", negatives=(text,))


@pytest.mark.parametrize("text", ["", " ", "...", "?!"])
def test_a_text_without_a_word_is_refused(text):
    with pytest.raises(ValueError, match="at least one word"):
        query_prompts(text)


def test_prompt_sets_that_cannot_be_scored_are_refused():
    with pytest.raises(ValueError, match="template"):
        PromptSet(names=("a",), concepts=((("a",),),), template="no slot")
    with pytest.raises(ValueError, match="at least one word"):
        PromptSet(names=("a",), concepts=(((),),))
    with pytest.raises(ValueError, match="concepts for each"):
        PromptSet(names=("a", "b"), concepts=((("a",),),))


def test_a_class_scores_as_its_best_concept():
    cosine = np.array([[0.1, 0.5, 0.2], [0.3, np.nan, 0.0]])
    scores = class_cosine(cosine, (0, 0, 1))
    np.testing.assert_array_equal(scores[0], [0.5, 0.2])
    assert np.isnan(scores[1, 0])


def test_probabilities_sum_to_one_and_sharpen_with_low_temperature():
    cosine = np.array([[0.30, 0.28, 0.10]])
    soft, sharp = class_probability(cosine, 1.0), class_probability(cosine, 0.001)
    assert soft.sum() == pytest.approx(1.0)
    assert sharp[0, 0] > 0.999
    assert soft[0, 0] < 0.4
    with pytest.raises(ValueError, match="positive"):
        class_probability(cosine, 0.0)


def test_the_temperature_that_drew_the_labels_is_found():
    generator = np.random.default_rng(0)
    cosine = generator.normal(scale=0.1, size=(20_000, 5))
    probability = class_probability(cosine, 0.05)
    labels = (probability.cumsum(axis=1) < generator.random((len(cosine), 1))).sum(axis=1)
    assert fit_softmax_temperature(cosine, labels) == pytest.approx(0.05, rel=0.05)
    with pytest.raises(ValueError, match="label per row"):
        fit_softmax_temperature(cosine, [])


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory):
    """Write a CLIP checkpoint of a few thousand weights with a two-word vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("clip")
    words = ["<pad>", "<start>", "<end>", "a", "photo", "of", "car", "tree"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<start>", eos_token="<end>", model_max_length=8
    ).save_pretrained(folder)
    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 8, "max_position_embeddings": 8, "bos_token_id": 1, "eos_token_id": 2}
    config = CLIPConfig(text_config=text, vision_config={**tower, "image_size": 8, "patch_size": 4}, projection_dim=6)
    CLIPModel(config).save_pretrained(folder)
    return folder


def test_text_embeddings_are_unit_and_belong_to_known_weights(tiny_clip):
    encoder = TextEncoder(str(tiny_clip))
    embeddings = encoder.embed(["a photo of a car", "tree"])
    assert embeddings.shape == (2, 6)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(encoder.embed(["tree"])[0], embeddings[1], atol=1e-5)  # padding does not matter
    assert encoder.temperature == pytest.approx(1 / np.exp(2.6592), rel=1e-3)
    digests = {name: file_digest(tiny_clip / name) for name in ("model.safetensors", "tokenizer.json")}
    assert TextEncoder(str(tiny_clip), expected_digests=digests).embed(["tree"]).shape == (1, 6)
    with pytest.raises(ProvenanceMismatchError, match=r"tokenizer.json.*made with"):
        TextEncoder(str(tiny_clip), expected_digests={**digests, "tokenizer.json": "0" * 64})


def test_a_folder_without_a_checkpoint_is_named(tmp_path):
    with pytest.raises(MissingTargetError, match=tmp_path.name):
        TextEncoder(str(tmp_path))
