"""Features and metrics against torch-fidelity 0.4 and pytorch-fid 0.3, which others measure by."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from helpers.peers import import_peer
from helpers.pictures import as_torch, assert_same_features, pictures
from helpers.torch_inception import TorchInception
from tinyddpm.backend import Backend
from tinyddpm.metrics.base import Part, Sets, make_features
from tinyddpm.metrics.frechet import frechet_distance
from tinyddpm.metrics.inception_score import scores
from tinyddpm.metrics.kernel import kernel, kernel_distance
from tinyddpm.metrics.manifold import precision_recall


@pytest.mark.slow
@pytest.mark.parametrize("size", [(32, 32), (350, 280)])
def test_inception_is_torch_fidelitys(
    numpy_backend: Backend, inception_file: Path, inception_options: dict[str, str], size: tuple[int, int]
) -> None:
    """From uint8 to features and logits, made larger and made smaller."""
    theirs = import_peer("torch_fidelity.feature_extractor_inceptionv3", "0.4")
    images = pictures(2, *size)
    wanted = ["2048", "logits_unbiased"]
    net = theirs.FeatureExtractorInceptionV3("theirs", wanted, feature_extractor_weights_path=str(inception_file))
    features, logits = net(as_torch(images))
    seen = make_features("inception", numpy_backend, **inception_options)(images)
    assert_same_features(seen.features, features)
    assert_same_features(seen.logits, logits)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(32, 32), (350, 280)])
def test_inception_is_pytorch_fids(
    numpy_backend: Backend, inception: TorchInception, inception_options: dict[str, str], size: tuple[int, int]
) -> None:
    theirs = import_peer("pytorch_fid.inception", "0.3")
    images = pictures(2, *size)
    with patch.object(theirs, "load_state_dict_from_url", lambda *args, **options: inception.state_dict()):
        net = theirs.InceptionV3().eval()
    with torch.no_grad():
        (features,) = net(as_torch(images) / 255)
    seen = make_features("inception", numpy_backend, **inception_options, resize="pytorch-fid")(images)
    assert_same_features(seen.features, features[:, :, 0, 0])


@pytest.fixture
def sets(rng: np.random.Generator) -> Sets:
    """300 drawn and 250 real samples: 20 correlated features, as far from each other as they are wide."""
    mixed = rng.normal(size=(20, 20))
    drawn, real = rng.normal(size=(300, 20)) @ mixed, 0.3 + 1.2 * rng.normal(size=(250, 20)) @ mixed
    return Sets(Part(drawn, logits=3 * rng.normal(size=(300, 10))), Part(real))


def tensors(sets: Sets) -> list[torch.Tensor]:
    return [torch.as_tensor(part.features) for part in (sets.drawn, sets.real)]


def test_the_frechet_distance_is_torch_fidelitys(sets: Sets) -> None:
    theirs = import_peer("torch_fidelity.metric_fid", "0.4")
    expected = theirs.fid_statistics_to_metric(*map(theirs.fid_features_to_statistics, tensors(sets)), verbose=False)
    found = frechet_distance(sets.drawn.features, sets.real.features)
    assert found == pytest.approx(expected["frechet_inception_distance"], rel=1e-6)


def test_the_frechet_distance_is_pytorch_fids(sets: Sets) -> None:
    theirs = import_peer("pytorch_fid.fid_score", "0.3")
    moments = [(rows.mean(0), np.cov(rows, rowvar=False)) for rows in (sets.drawn.features, sets.real.features)]
    expected = theirs.calculate_frechet_distance(*moments[0], *moments[1])
    assert frechet_distance(sets.drawn.features, sets.real.features) == pytest.approx(expected, rel=1e-6)


def test_the_kernel_distance_is_torch_fidelitys(sets: Sets) -> None:
    """Of the same subset; and of a hundred subsets each, which are others, within four standard errors of the two."""
    theirs = import_peer("torch_fidelity.metric_kid", "0.4")
    drawn, real = (part.features[:200] for part in (sets.drawn, sets.real))
    one = theirs.kid_features_to_metric(
        torch.as_tensor(drawn), torch.as_tensor(real), kid_subsets=1, kid_subset_size=200, verbose=False
    )
    assert kernel_distance(drawn, real) == pytest.approx(one["kernel_inception_distance_mean"], rel=1e-6)
    many = theirs.kid_features_to_metric(*tensors(sets), kid_subsets=100, kid_subset_size=100, verbose=False)
    found = kernel(sets, subsets=100, size=100)
    error = many["kernel_inception_distance_std"] * (2 / 100) ** 0.5
    assert found["kernel"] == pytest.approx(many["kernel_inception_distance_mean"], abs=4 * error)


def test_precision_and_recall_are_torch_fidelitys(sets: Sets) -> None:
    theirs = import_peer("torch_fidelity.metric_prc", "0.4")
    expected = theirs.prc_features_to_metric(*tensors(sets), verbose=False)
    found = precision_recall(sets)
    assert 0.1 < expected["precision"] < 0.99
    assert 0.1 < expected["recall"] < 0.99
    for name in "precision", "recall":
        assert found[name] == pytest.approx(expected[name], rel=1e-6)


def test_the_inception_score_is_torch_fidelitys(sets: Sets) -> None:
    theirs = import_peer("torch_fidelity.metric_isc", "0.4")
    expected = theirs.isc_features_to_metric(torch.as_tensor(sets.drawn.logits), splits=7, shuffle=False)
    found = scores(np.asarray(sets.drawn.logits), 7)
    assert found.mean() == pytest.approx(expected["inception_score_mean"], rel=1e-6)
    assert found.std() == pytest.approx(expected["inception_score_std"], rel=1e-6)
