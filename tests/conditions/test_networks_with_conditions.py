"""Every network with every condition: gradients of each parameter of both, by central differences through the two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from helpers.conditions import Columns, Picture, Words
from tinyddpm.backend import load_backend
from tinyddpm.conditions import Condition, Conditioned, Unconditional
from tinyddpm.conditions.embeddings import Embeddings
from tinyddpm.conditions.image import Image
from tinyddpm.conditions.label import Label
from tinyddpm.conditions.text import Text
from tinyddpm.errors import ConfigError
from tinyddpm.nn import Layout, Told, Widths, make_network
from tinyddpm.ops import load_operations
from tinyddpm.testing import check_projection, random_weights
from tinyddpm.testing.gradients import check_zero

pytestmark = pytest.mark.slow

NUMPY = load_backend("numpy")
SHAPE = 4, 4, 2
RNG = np.random.default_rng(8)
KNOWN = Columns(
    np.asarray([2, 0, 1]),
    RNG.normal(size=(3, 4, 4, 3)),
    RNG.normal(size=(3, 5, 3)),
    np.asarray([5, 2, 1]),
    {
        "text": np.asarray(["red", "", "apple red"], object),
        "tokens": RNG.normal(size=(3, 5, 3)).astype(np.float32),
        "length": np.asarray([5, 0, 2]),
        "image": RNG.normal(size=(3, 2, 2, 2)).astype(np.float32),
        "level": np.asarray([0.0, 0.1, 1.0], np.float32),
    },
)
UNET: dict[str, Any] = {
    "channels": 4,
    "multipliers": (1, 2),
    "blocks": 1,
    "attention": (2,),
    "heads": 2,
    "dropout": 0.0,
}
NETWORKS = {"cross": {**UNET, "text": "cross"}, "concat": {**UNET, "text": "concat"}}


def text(sample_shape: tuple[int, ...], classes: int, width: int, null: bool) -> Text:
    words, small = ["red"], {"token_width": 4, "depth": 1, "heads": 2, "length": 8}
    return Text(sample_shape, classes, width, null, words=words, **small)


def embeddings(sample_shape: tuple[int, ...], classes: int, width: int, null: bool) -> Embeddings:
    return Embeddings(sample_shape, classes, width, null, token_width=4, length=5, size=3)


@pytest.mark.parametrize("factory", [Label, Picture, Words, text, embeddings, Image])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_of_every_path(name: str, factory: Callable[..., Condition]) -> None:
    """Blocks that are run again on the way back give the same bits, so what holds of one holds of the other."""
    condition = factory(SHAPE, 3, 16, True)
    both = Conditioned(make_network("unet", SHAPE, condition.gives, 2, NETWORKS[name]), condition)
    rng, layout = np.random.default_rng(0), Layout(both.parameters)
    w, given = random_weights(both, 1), dict(condition.read(KNOWN))
    x, dout, t = rng.normal(size=(3, *SHAPE)), rng.normal(size=(3, *SHAPE)), np.asarray([0, 5, 900])

    def value(changed: np.ndarray, path: str) -> np.ndarray:
        return np.asarray(both.forward(load_operations(NUMPY), {**w, path: changed}, x, t, given)[0])

    found = []
    for recompute in (False, True):
        buffer = np.zeros(layout.size)
        _, saved = both.forward(load_operations(NUMPY, training=True, recompute=recompute), w, x, t, given)
        both.backward(saved, layout.views(buffer, np), dout)
        found.append(buffer)
    np.testing.assert_array_equal(*found)
    dw = layout.views(found[0], np)
    beside = name == "concat" and condition.gives.tokens  # other keys stand beside those of the pixels
    for path, gradient in dw.items():
        zero = path.endswith("/k/b") and not (beside and not path.startswith("text/"))
        check = check_zero if zero else check_projection
        check(lambda a, path=path: value(a, path), w[path], dout, gradient, rng, path)


@pytest.mark.parametrize(
    ("change", "found"),
    [(lambda out: out[:, :1], r"float64 of shape \(3, 1, 4, 2\)"), (np.float32, r"float32 of shape \(3, 4, 4, 2\)")],
)
def test_a_prediction_of_another_shape_or_type_is_refused(
    change: Callable[[np.ndarray], np.ndarray], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be broadcast against the target."""
    network = make_network("unet", SHAPE, Widths(), 2, UNET)
    whole = network.forward
    monkeypatch.setattr(network, "forward", lambda *given: (change(whole(*given)[0]), None))
    both, ops = Conditioned(network, Unconditional(), "odd"), load_operations(NUMPY)
    line = rf"network 'odd' with its condition returns {found} for float64 of shape \(3, 4, 4, 2\): make it keep"
    with pytest.raises(ConfigError, match=line):
        both.forward(ops, random_weights(network, 1), np.zeros((3, *SHAPE)), np.zeros(3, int), {})


@pytest.mark.parametrize("name", NETWORKS)
def test_tokens_without_a_mask_are_all_there(name: str, rng: np.random.Generator) -> None:
    """As with a mask that is True everywhere: the prediction, and every gradient."""
    network = make_network("unet", SHAPE, Widths(tokens=3), 2, NETWORKS[name])
    layout, ops = Layout(network.parameters), load_operations(NUMPY, training=True)
    w, tokens = random_weights(layout, 1), rng.normal(size=(3, 5, 3))
    x, dout, t = rng.normal(size=(3, *SHAPE)), rng.normal(size=(3, *SHAPE)), np.asarray([0, 5, 900])
    both = []
    for mask in (None, np.ones((3, 5), bool)):
        dw = layout.views(np.zeros(layout.size), np)
        out, saved = network.forward(ops, w, x, t, Told(tokens=tokens, mask=mask))
        dx, dtold = network.backward(saved, dw, dout)
        both.append({"out": out, "dx": dx, "dtokens": dtold.tokens, **dw})
    for what, found in both[0].items():
        np.testing.assert_allclose(found, both[1][what], rtol=1e-10, atol=1e-12, err_msg=what)
    assert np.abs(both[0]["dtokens"]).max() > 1e-3
