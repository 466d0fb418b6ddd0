// The patches of a convolution and their transpose: P and P^T of tinyddpm/ops/convolution.py. What is between them is a
// matrix product.
#include "common.cuh"

// patches[n, i, j, p, q, c] = x[n, s i + p - top, s j + q - left, c], 0 outside; x is (N, height, width, channels) and
// patches (N, rows, columns, kh, kw, channels). One block an output pixel (n, i, j), its threads over (p, q, c).
extern "C" __global__ void gather_patches(
    const scalar* x, scalar* patches, int height, int width, int channels, int rows, int columns, int kh, int kw,
    int stride, int top, int left
) {
    int j = blockIdx.x % columns, i = blockIdx.x / columns % rows;
    size_t n = blockIdx.x / (columns * rows);
    int length = kh * kw * channels;
    for (int k = threadIdx.x; k < length; k += blockDim.x) {
        int c = k % channels, q = k / channels % kw, p = k / channels / kw;
        int h = i * stride + p - top, w = j * stride + q - left;
        bool inside = h >= 0 && h < height && w >= 0 && w < width;
        patches[(size_t)blockIdx.x * length + k] =
            inside ? x[((n * height + h) * width + w) * channels + c] : store(0.0f);
    }
}

// dx[n, h, w, c] = the sum of dpatches[n, i, j, p, q, c] over all (i, p) with s i + p - top = h and (j, q) likewise.
// Every pixel collects what was read from it, so no two threads write to one place. One block an input pixel (n, h, w),
// its threads over the channels.
extern "C" __global__ void sum_patches(
    const scalar* dpatches, scalar* dx, int height, int width, int channels, int rows, int columns, int kh, int kw,
    int stride, int top, int left
) {
    int w = blockIdx.x % width, h = blockIdx.x / width % height;
    size_t n = blockIdx.x / (width * height);
    for (int c = threadIdx.x; c < channels; c += blockDim.x) {
        float sum = 0;
        for (int p = 0; p < kh; p++) {
            int from_top = h + top - p, i = from_top / stride;
            if (from_top < 0 || from_top % stride || i >= rows) continue;
            for (int q = 0; q < kw; q++) {
                int from_left = w + left - q, j = from_left / stride;
                if (from_left < 0 || from_left % stride || j >= columns) continue;
                size_t patch = (n * rows + i) * columns + j;
                sum += load(dpatches[((patch * kh + p) * kw + q) * channels + c]);
            }
        }
        dx[(size_t)blockIdx.x * channels + c] = store(sum);
    }
}
