"""Denoising diffusion probabilistic models in one file: NumPy alone, and every gradient by hand.

    python examples/ddpm.py              # learns handwritten digits in a few minutes and draws 80: digits.png
    python examples/ddpm.py --check      # compares every gradient with finite differences

It reads from top to bottom beside sections 2 to 4 of DDPM (Ho, Jain, Abbeel 2020, arXiv 2006.11239); the numbers of
equations are that paper's. Time t counts from 0 in code: t = 0 is the paper's 1. Images are arrays (N, H, W, C) of
numbers in [-1, 1]. The gradient of the loss with respect to a is called da.
"""

import argparse
import struct
import zlib
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = Any  # a NumPy array: float32 in training, float64 where gradients are checked
Weights: TypeAlias = dict[str, Array]  # by name, such as "middle/block_0/conv_1/w"

# 2 Background -----------------------------------------------------------------------------------------------------
# The forward process q turns an image x_0 into noise in T steps. The reverse process p turns noise into an image, and
# is learned. How much noise each step adds is a table: in section 4, T = 1000 and β_t rises in a straight line.

T = 1000
beta = np.linspace(1e-4, 0.02, T)  # eq. 2: q(x_t | x_{t-1}) = N(√(1 - β_t) x_{t-1}, β_t I)
alpha = 1 - beta
alpha_bar = np.cumprod(alpha)
alpha_bar_prev = np.concatenate([[1.0], alpha_bar[:-1]])  # ᾱ_{t-1}; before the first step nothing is lost


def at(table: Array, t: Array, x: Array) -> Array:
    """The table's values at times t, in a shape that multiplies images, and in x's type."""
    return table[t].astype(x.dtype).reshape(-1, 1, 1, 1)


def q_sample(x_0: Array, t: Array, eps: Array) -> Array:
    """Eq. 4: x_t ~ q(x_t | x_0) = N(√ᾱ_t x_0, (1 - ᾱ_t) I), all steps up to t in one, from eps ~ N(0, I)."""
    return at(alpha_bar**0.5, t, x_0) * x_0 + at((1 - alpha_bar) ** 0.5, t, x_0) * eps


def q_posterior(x_0: Array, x_t: Array, t: Array) -> tuple[Array, Array]:
    """Eqs. 6 and 7: mean and variance of q(x_{t-1} | x_t, x_0), the step back if the image is known."""
    c_0 = alpha_bar_prev**0.5 * beta / (1 - alpha_bar)
    c_t = alpha**0.5 * (1 - alpha_bar_prev) / (1 - alpha_bar)
    beta_tilde = (1 - alpha_bar_prev) / (1 - alpha_bar) * beta
    return at(c_0, t, x_t) * x_0 + at(c_t, t, x_t) * x_t, at(beta_tilde, t, x_t)


# 3 Diffusion models and denoising autoencoders --------------------------------------------------------------------
# 3.1 The forward process: its β_t are constants, so nothing in q is learned.
# 3.2 The reverse process: a network eps_θ says which noise is in x_t. This noise implies an image, and q's posterior
#     for that image is the step back. Its mean is eq. 11's, but for np.clip, which keeps images in [-1, 1]; its
#     variance is one of the paper's two choices of σ_t².
def predict_x_0(x_t: Array, t: Array, eps: Array) -> Array:
    """Eq. 15: the image in x_t, if the noise in it is eps. This is eq. 4 solved for x_0."""
    return (x_t - at((1 - alpha_bar) ** 0.5, t, x_t) * eps) / at(alpha_bar**0.5, t, x_t)


def sample(net: "UNet", count: int, rng: np.random.Generator) -> Array:
    """Algorithm 2: new images, (count, 8, 8, 1)."""
    x = rng.standard_normal((count, 8, 8, 1), np.float32)  # line 1
    for t in reversed(range(T)):  # line 2
        z = rng.standard_normal(x.shape, np.float32)  # line 3
        eps = net.forward(x, np.full(count, t))
        x_0 = np.clip(predict_x_0(x, t, eps), -1, 1)
        mean, variance = q_posterior(x_0, x, t)
        x = mean + variance**0.5 * z  # line 4; the last variance is 0: the last step adds no noise
    return x


# 3.3 Data scaling: integers from 0 to 255 become numbers in [-1, 1].
def digits() -> Array:
    """1,797 handwritten digits, (1797, 8, 8, 1), which lie in this repository."""
    with np.load(Path(__file__).parents[1] / "tinyddpm" / "data" / "shipped" / "digits.npz") as arrays:
        return arrays["images"][..., None].astype(np.float32) / 127.5 - 1


# 3.4 The simplified training objective: the squared error of the predicted noise. The bound (eqs. 5 and 12) weighs it
#     by β_t² / (2 σ_t² α_t (1 - ᾱ_t)); here all times count alike.
def loss_and_gradients(net: "UNet", x_0: Array, t: Array, eps: Array) -> tuple[float, Weights]:
    """Eq. 14: L_simple = mean |eps - eps_θ(√ᾱ_t x_0 + √(1 - ᾱ_t) eps, t)|², and its gradients."""
    error = net.forward(q_sample(x_0, t, eps), t) - eps
    return float(np.mean(error**2)), net.backward(2 * error / error.size)


def train(net: "UNet", steps: int, rng: np.random.Generator) -> None:
    """Algorithm 1. In the end the network has the running average of its weights."""
    images, losses = digits(), []
    m, v = ({name: np.zeros_like(value) for name, value in net.w.items()} for _ in range(2))
    average = {name: value.copy() for name, value in net.w.items()}
    for step in range(1, steps + 1):  # line 1
        x_0 = images[rng.integers(len(images), size=BATCH)]  # line 2
        t = rng.integers(T, size=BATCH)  # line 3
        eps = rng.standard_normal(x_0.shape, np.float32)  # line 4
        loss, dw = loss_and_gradients(net, x_0, t, eps)  # line 5
        adam(net.w, dw, m, v, average, step)
        losses.append(loss)
        if step % 100 == 0:
            print(f"step {step}: loss {np.mean(losses[-100:]):.4f}")
    net.w = average


# 4 Experiments ----------------------------------------------------------------------------------------------------
# The optimiser (appendix B): Adam, and the running average of the weights, from which samples are drawn.

BATCH, RATE, DECAY = 32, 2e-3, 0.995  # images a step, learning rate, decay of the average


def adam(w: Weights, dw: Weights, m: Weights, v: Weights, average: Weights, step: int) -> None:
    """A step along the mean of the gradients over the root of the mean of their squares (Kingma, Ba 2014)."""
    for name, g in dw.items():
        m[name] += (1 - 0.9) * (g - m[name])
        v[name] += (1 - 0.999) * (g**2 - v[name])
        m_hat, v_hat = m[name] / (1 - 0.9**step), v[name] / (1 - 0.999**step)
        w[name] -= RATE * m_hat / (v_hat**0.5 + 1e-8)
        average[name] += (1 - DECAY) * (w[name] - average[name])


# The network (appendix B): a U-Net on 8×8 and 4×4 pixels.

C = 24  # channels at 8×8; at 4×4 there are twice as many


def rows(x: Array) -> Array:
    """x as a matrix, a row for each pixel and a column for each channel."""
    return x.reshape(-1, x.shape[-1])


def group_mean(x: Array) -> Array:
    """The mean over an image's pixels and each group of 4 channels, repeated for its channels: (N, 1, 1, C)."""
    of_groups = x.mean(axis=(1, 2)).reshape(len(x), -1, 4).mean(axis=2)
    return of_groups.repeat(4, axis=1)[:, None, None, :]


class UNet:
    """eps_θ(x_t, t), made of pairs: a forward, and below it the backward, which is the forward read upwards.

    A forward puts what its backward needs on the stack `saved`. The backward takes it off again, writes the gradients
    of its weights into `dw`, and returns the gradient of its input. Weights `w` are made where they are first used.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.w: Weights = {}
        self.forward(np.zeros((1, 8, 8, 1), np.float32), np.zeros(1, int))

    def linear(self, name: str, x: Array, c: int, scale: float = 1.0) -> Array:
        """y = x W + b, to c channels. W starts with variance scale² / (channels of x), 0 at a block's end; b at 0."""
        if f"{name}/w" not in self.w:
            start = self.rng.standard_normal((x.shape[-1], c), np.float32)
            self.w |= {f"{name}/w": start * scale * x.shape[-1] ** -0.5, f"{name}/b": np.zeros(c, np.float32)}
        self.saved.append((name, x))
        return (rows(x) @ self.w[f"{name}/w"] + self.w[f"{name}/b"]).reshape(*x.shape[:-1], c)

    def linear_backward(self, dy: Array) -> Array:
        """dW = xᵀ dy, db = Σ dy, dx = dy Wᵀ."""
        name, x = self.saved.pop()
        self.dw |= {f"{name}/w": rows(x).T @ rows(dy), f"{name}/b": rows(dy).sum(axis=0)}
        return (rows(dy) @ self.w[f"{name}/w"].T).reshape(x.shape)

    def conv(self, name: str, x: Array, c: int, stride: int = 1, scale: float = 1.0) -> Array:
        """3×3 convolution: y = P(x) W + b, where a row of P(x) is the 3×3 pixels that a pixel of y sees."""
        _, height, width, _ = x.shape
        before = 1 if stride == 1 else 0  # zeros above and left; below and right there is always one
        padded = np.pad(x, ((0, 0), (before, 1), (before, 1), (0, 0)))
        seen = [padded[:, i : i + height : stride, j : j + width : stride] for i in range(3) for j in range(3)]
        self.saved.append((x.shape, stride, before))
        return self.linear(name, np.concatenate(seen, axis=-1), c, scale)

    def conv_backward(self, dy: Array) -> Array:
        """dx = Pᵀ(dy Wᵀ): the gradient of a pixel of x is the sum over the patches that contain it."""
        dpatches = self.linear_backward(dy)
        (n, height, width, c), stride, before = self.saved.pop()
        dpadded = np.zeros((n, before + height + 1, before + width + 1, c), dy.dtype)
        for k, dseen in enumerate(np.split(dpatches, 9, axis=-1)):
            i, j = k // 3, k % 3
            dpadded[:, i : i + height : stride, j : j + width : stride] += dseen
        return dpadded[:, before:-1, before:-1]

    def group_norm(self, name: str, x: Array) -> Array:
        """y = x̂ scale + shift, with x̂ = (x - μ) r, r = 1 / √(σ² + 1e-6), over pixels and groups of 4 channels."""
        if f"{name}/scale" not in self.w:
            self.w |= {f"{name}/scale": np.ones(x.shape[-1], x.dtype), f"{name}/shift": np.zeros(x.shape[-1], x.dtype)}
        centred = x - group_mean(x)
        r = (group_mean(centred**2) + 1e-6) ** -0.5
        self.saved.append((name, centred * r, r))
        return centred * r * self.w[f"{name}/scale"] + self.w[f"{name}/shift"]

    def group_norm_backward(self, dy: Array) -> Array:
        """dx = r (g - mean(g) - x̂ mean(g x̂)), with g = dy scale."""
        name, x_hat, r = self.saved.pop()
        self.dw |= {f"{name}/scale": rows(dy * x_hat).sum(axis=0), f"{name}/shift": rows(dy).sum(axis=0)}
        g = dy * self.w[f"{name}/scale"]
        return r * (g - group_mean(g) - x_hat * group_mean(g * x_hat))

    def silu(self, x: Array) -> Array:
        """y = x σ(x), with σ(x) = 1 / (1 + e^-x)."""
        sigma = (1 + np.tanh(x / 2)) / 2  # the same, but it cannot overflow
        self.saved.append((x, sigma))
        return x * sigma

    def silu_backward(self, dy: Array) -> Array:
        """dx = dy σ (1 + x (1 - σ)), since σ' = σ (1 - σ)."""
        x, sigma = self.saved.pop()
        return dy * sigma * (1 + x * (1 - sigma))

    def attention(self, name: str, x: Array) -> Array:
        """x + (norm, attention, 1×1 convolution). Attention: O = P V, P = softmax(S / √c), S = Q Kᵀ; a pixel a row."""
        n, height, width, c = x.shape
        h = self.group_norm(f"{name}/norm", x).reshape(n, height * width, c)
        q, k, v = (self.linear(f"{name}/{part}", h, c) for part in "qkv")
        logits = q @ k.mT / c**0.5
        e = np.exp(logits - logits.max(axis=-1, keepdims=True))
        p = e / e.sum(axis=-1, keepdims=True)
        self.saved.append((q, k, v, p))
        return x + self.linear(f"{name}/out", p @ v, c, scale=0).reshape(x.shape)

    def attention_backward(self, dy: Array) -> Array:
        """dV = Pᵀ dO, dP = dO Vᵀ, dS = P (dP - Σ dP P) / √c with the sum over a row, dQ = dS K, dK = dSᵀ Q."""
        n, height, width, c = dy.shape
        do = self.linear_backward(dy.reshape(n, height * width, c))
        q, k, v, p = self.saved.pop()
        dv, dp = p.mT @ do, do @ v.mT
        ds = p * (dp - (dp * p).sum(axis=-1, keepdims=True)) / c**0.5
        dq, dk = ds @ k, ds.mT @ q
        dh = self.linear_backward(dv) + self.linear_backward(dk) + self.linear_backward(dq)
        return dy + self.group_norm_backward(dh.reshape(dy.shape))

    def residual_block(self, name: str, x: Array, temb: Array, c: int) -> Array:
        """x + (norm, SiLU, convolution, twice), with time added between. Where channels change, x is convolved, 1×1."""
        h = self.silu(self.group_norm(f"{name}/norm_1", x))
        h = self.conv(f"{name}/conv_1", h, c) + self.linear(f"{name}/time", temb, c)[:, None, None, :]
        h = self.silu(self.group_norm(f"{name}/norm_2", h))
        h = self.conv(f"{name}/conv_2", h, c, scale=0)
        same = x.shape[-1] == c
        shortcut = x if same else self.linear(f"{name}/shortcut", x, c)
        self.saved.append(same)
        return shortcut + h

    def residual_block_backward(self, dy: Array, dtemb: Array) -> Array:
        """Returns dx, and adds the gradient of temb to dtemb, in place."""
        same = self.saved.pop()
        dshortcut = dy if same else self.linear_backward(dy)
        dh = self.conv_backward(dy)
        dh = self.group_norm_backward(self.silu_backward(dh))
        dtemb += self.linear_backward(dh.sum(axis=(1, 2)))
        dh = self.conv_backward(dh)
        return dshortcut + self.group_norm_backward(self.silu_backward(dh))

    def forward(self, x: Array, t: Array) -> Array:
        """The noise in x_t, (N, 8, 8, 1). The blocks on the way up also take h_3 to h_0, computed on the way down."""
        self.saved: list[Any] = []
        # t as sines and cosines of C / 2 frequencies, from 1 to 1/10000.
        angles = t[:, None] * 10000.0 ** (-np.arange(C // 2) / (C // 2 - 1))
        temb = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(x.dtype)
        temb = self.silu(self.linear("time/dense_1", temb, 4 * C))
        temb = self.silu(self.linear("time/dense_2", temb, 4 * C))

        h_0 = self.conv("conv_in", x, C)
        h_1 = self.residual_block("down_0/block_0", h_0, temb, C)
        h_2 = self.conv("down_0/halve", h_1, C, stride=2)
        h_3 = self.residual_block("down_1/block_0", h_2, temb, 2 * C)
        h = self.residual_block("middle/block_0", h_3, temb, 2 * C)
        h = self.attention("middle/attention", h)
        h = self.residual_block("middle/block_1", h, temb, 2 * C)
        h = self.residual_block("up_1/block_0", np.concatenate([h, h_3], axis=-1), temb, 2 * C)
        h = self.residual_block("up_1/block_1", np.concatenate([h, h_2], axis=-1), temb, 2 * C)
        h = h.repeat(2, axis=1).repeat(2, axis=2)  # each pixel becomes 2×2
        h = self.conv("up_1/double/conv", h, 2 * C)
        h = self.residual_block("up_0/block_0", np.concatenate([h, h_1], axis=-1), temb, C)
        h = self.residual_block("up_0/block_1", np.concatenate([h, h_0], axis=-1), temb, C)
        h = self.silu(self.group_norm("norm_out", h))
        return self.conv("conv_out", h, 1, scale=0)

    def backward(self, deps: Array) -> Weights:
        """The gradients of all weights. Where a result was used twice, its gradient is the sum of two."""
        self.dw: Weights = {}
        dtemb = np.zeros((len(deps), 4 * C), deps.dtype)
        dh = self.conv_backward(deps)
        dh = self.group_norm_backward(self.silu_backward(dh))
        dh, dh_0 = np.split(self.residual_block_backward(dh, dtemb), [C], axis=-1)
        dh, dh_1 = np.split(self.residual_block_backward(dh, dtemb), [2 * C], axis=-1)
        dh = self.conv_backward(dh)
        dh = dh.reshape(-1, 4, 2, 4, 2, 2 * C).sum(axis=(2, 4))  # each pixel gathers its 2×2
        dh, dh_2 = np.split(self.residual_block_backward(dh, dtemb), [2 * C], axis=-1)
        dh, dh_3 = np.split(self.residual_block_backward(dh, dtemb), [2 * C], axis=-1)
        dh = self.residual_block_backward(dh, dtemb)
        dh = self.attention_backward(dh)
        dh = self.residual_block_backward(dh, dtemb)
        dh = self.residual_block_backward(dh + dh_3, dtemb)
        dh = self.conv_backward(dh + dh_2)
        dh = self.residual_block_backward(dh + dh_1, dtemb)
        self.conv_backward(dh + dh_0)

        dtemb = self.linear_backward(self.silu_backward(dtemb))
        self.linear_backward(self.silu_backward(dtemb))
        return self.dw


# 4.1 Sample quality -----------------------------------------------------------------------------------------------
def save_png(path: str, x: Array) -> None:
    """Write images as a grey PNG, in rows of 10, six times enlarged."""
    grid = np.pad(np.round((x.clip(-1, 1) + 1) * 127.5).astype(np.uint8), ((0, 0), (1, 1), (1, 1), (0, 0)))
    grid = grid.reshape(-1, 10, 10, 10).transpose(0, 2, 1, 3).reshape(-1, 100).repeat(6, axis=0).repeat(6, axis=1)
    lines = np.pad(grid, ((0, 0), (1, 0))).tobytes()  # each begins with the number of its filter, 0 for none
    header = struct.pack(">IIBBBBB", *grid.shape[::-1], 8, 0, 0, 0, 0)  # 8 bits, grey
    with open(path, "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, data in (b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""):
            file.write(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))


def check(net: UNet, rng: np.random.Generator) -> None:
    """Compare each gradient, along a random direction d and in float64, with (L(w + h d) - L(w - h d)) / 2h."""
    net.w = {name: value + 0.1 * rng.standard_normal(value.shape) for name, value in net.w.items()}  # float64, no 0
    x_0, eps = rng.standard_normal((2, 3, 8, 8, 1))
    t, h = rng.integers(T, size=3), 1e-5
    _, dw = loss_and_gradients(net, x_0, t, eps)
    for name, value in net.w.items():
        d = rng.standard_normal(value.shape)
        value += h * d
        above, _ = loss_and_gradients(net, x_0, t, eps)
        value -= 2 * h * d
        below, _ = loss_and_gradients(net, x_0, t, eps)
        value += h * d
        by_hand, by_differences = np.sum(dw[name] * d), (above - below) / (2 * h)
        print(f"by hand {by_hand:+.8f}, by differences {by_differences:+.8f}: {name}")
        np.testing.assert_allclose(by_hand, by_differences, rtol=1e-5, atol=1e-8, err_msg=name)


def main() -> None:
    parser = argparse.ArgumentParser(description="A diffusion model of handwritten digits in one file.")
    parser.add_argument("--check", action="store_true", help="compare every gradient with finite differences")
    parser.add_argument("--steps", type=int, default=2000, help="training steps (2000)")
    parser.add_argument("--rows", type=int, default=8, help="rows of ten digits to draw (8)")
    parser.add_argument("--out", default="digits.png", help="picture to write (digits.png)")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    net = UNet(rng)
    if options.check:
        check(net, rng)
    else:
        train(net, options.steps, rng)
        save_png(options.out, sample(net, 10 * options.rows, rng))


if __name__ == "__main__":
    main()
