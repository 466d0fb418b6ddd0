"""Convolution as a matrix product: patches are gathered and multiplied by the weights; the backward transposes both."""

from __future__ import annotations

from tinyddpm.backend import Array
from tinyddpm.ops.base import Family, Saved


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return (before, after), the numbers of zeros along one side that make the output ceil(size / stride) long.

    If their sum is odd, the extra zero goes after: for a 3×3 kernel at stride 2, images of even size are padded at the
    right and bottom only, as in DDPM.
    """
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class Convolution(Family):
    """Cross-correlation of NHWC images with (kh, kw, C_in, C_out) weights."""

    def conv2d(
        self, x: Array, w: Array, b: Array, stride: int = 1, residual: Array | None = None
    ) -> tuple[Array, Saved]:
        """Return the cross-correlation of x with w, plus b; s is the stride.

            y[n, i, j, o] = b[o] + Σ_{p, q, c} x[n, s i + p, s j + q, c] w[p, q, c, o]

        x is padded with zeros. With P(x) the matrix of patches, one row per output pixel, this is y = P(x) W + b.
        P is linear, so dW = P(x)ᵀ dy, db = Σ dy, and dx = Pᵀ(dy Wᵀ), where Pᵀ adds each element of a patch to the
        pixel that it was read from. Saved are x and w: the patches are kh·kw times larger than x and cheap to gather
        again.

        A residual, such as the input of a block with a skip connection, is added to y; dresidual = dy.

        Args:
            x: (N, H, W, C_in).
            w: (kh, kw, C_in, C_out).
            b: (C_out,).
            stride: distance in x between neighbouring output pixels, in both directions.
            residual: array of y's shape and dtype to add to y, or None.

        Returns:
            y of shape (N, ceil(H / stride), ceil(W / stride), C_out), and (x, w, stride).
        """
        kh, kw, c_in, c_out = w.shape
        patches = self._patches(x, kh, kw, stride)
        n, height, width, _ = patches.shape
        flat = self.xp.reshape(patches, (n * height * width, kh * kw * c_in))
        y = self.xp.reshape(flat @ self.xp.reshape(w, (kh * kw * c_in, c_out)) + b, (n, height, width, c_out))
        if residual is not None:
            y = y + residual
        return y, self._save(x, w, stride)

    def conv2d_backward(self, saved: Saved, dy: Array) -> tuple[Array, Array, Array]:
        """Return (dx, dw, db) of `conv2d`; the gradient of a residual is dy itself."""
        x, w, stride = saved
        kh, kw, c_in, c_out = w.shape
        patches = self._patches(x, kh, kw, stride)
        flat = self.xp.reshape(patches, (-1, kh * kw * c_in))
        dy_flat = self.xp.reshape(dy, (-1, c_out))
        dw = self.xp.reshape(self.xp.matrix_transpose(flat) @ dy_flat, w.shape)
        db = self.xp.sum(dy_flat, axis=0)
        dflat = dy_flat @ self.xp.matrix_transpose(self.xp.reshape(w, (kh * kw * c_in, c_out)))
        dx = self._patches_transposed(self.xp.reshape(dflat, patches.shape), x.shape, kh, kw, stride)
        return dx, dw, db

    def conv2d_costs(self, x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: int = 1) -> dict[str, float]:
        """Return the cost of `conv2d` in 10⁹ multiply-adds, by name of algorithm; `conv2d` uses the cheapest."""
        n, height, width, _ = x_shape
        kh, kw, c_in, c_out = w_shape
        return {"patches": n * -(-height // stride) * -(-width // stride) * kh * kw * c_in * c_out / 1e9}

    def _patches(self, x: Array, kh: int, kw: int, stride: int) -> Array:
        """Return P(x), shape (N, H', W', kh·kw·C): for each output pixel, the elements of x under the kernel."""
        if (kh, kw, stride) == (1, 1, 1):
            return x
        n, height, width, c = x.shape
        (top, bottom), (left, right) = same_padding(height, kh, stride), same_padding(width, kw, stride)
        padded = self._zeros((n, top + height + bottom, left + width + right, c), like=x)
        padded[:, top : top + height, left : left + width, :] = x
        rows, columns = -(-height // stride), -(-width // stride)
        views = [padded[:, i, j, :] for i, j in _windows(kh, kw, rows, columns, stride)]
        return self.xp.concat(views, axis=-1)

    def _patches_transposed(self, dpatches: Array, shape: tuple[int, ...], kh: int, kw: int, stride: int) -> Array:
        """Return Pᵀ(dpatches), shape (N, H, W, C): each patch added to the pixels that `_patches` read it from."""
        if (kh, kw, stride) == (1, 1, 1):
            return dpatches
        n, height, width, c = shape
        (top, bottom), (left, right) = same_padding(height, kh, stride), same_padding(width, kw, stride)
        padded = self._zeros((n, top + height + bottom, left + width + right, c), like=dpatches)
        rows, columns = dpatches.shape[1:3]
        for k, (i, j) in enumerate(_windows(kh, kw, rows, columns, stride)):
            padded[:, i, j, :] += dpatches[..., k * c : (k + 1) * c]
        return padded[:, top : top + height, left : left + width, :]


def _windows(kh: int, kw: int, rows: int, columns: int, stride: int) -> list[tuple[slice, slice]]:
    """Return, for each position in the kernel, the slices of the padded image that it reads over all output pixels."""
    return [
        (slice(p, p + (rows - 1) * stride + 1, stride), slice(q, q + (columns - 1) * stride + 1, stride))
        for p in range(kh)
        for q in range(kw)
    ]
