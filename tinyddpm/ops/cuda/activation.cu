// SiLU, GELU and dropout (tinyddpm/ops/activation.py), and what a sample is told per channel, a modulation or a vector
// added (tinyddpm/ops/normalisation.py). Equations and derivatives are there.
#include "common.cuh"
#include "philox.cuh"

// One thread an element.

extern "C" __global__ void silu_forward(const scalar* x, scalar* y, long long size) {
    long long i = element();
    if (i < size) y[i] = store(load(x[i]) * sigmoid(load(x[i])));
}

// dx = dy sigma (1 + x (1 - sigma))
extern "C" __global__ void silu_backward(const scalar* x, const scalar* dy, scalar* dx, long long size) {
    long long i = element();
    if (i >= size) return;
    float value = load(x[i]), sigma = sigmoid(value);
    dx[i] = store(load(dy[i]) * sigma * (1 + value * (1 - sigma)));
}

// GELU's u = sqrt(2 / pi) (x + cubic x^3), whose derivative is sqrt(2 / pi) (1 + 3 cubic x^2).
const float GELU_SCALE = 0.7978845608028654f, GELU_CUBIC = 0.044715f;

extern "C" __global__ void gelu_forward(const scalar* x, scalar* y, long long size) {
    long long i = element();
    if (i >= size) return;
    float value = load(x[i]), u = GELU_SCALE * (value + GELU_CUBIC * value * value * value);
    y[i] = store(value * (1 + tanhf(u)) / 2);
}

// dx = dy ((1 + tanh u) + x (1 - tanh^2 u) u') / 2
extern "C" __global__ void gelu_backward(const scalar* x, const scalar* dy, scalar* dx, long long size) {
    long long i = element();
    if (i >= size) return;
    float value = load(x[i]), square = value * value;
    float bend = tanhf(GELU_SCALE * (value + GELU_CUBIC * square * value));
    float du = GELU_SCALE * (1 + 3 * GELU_CUBIC * square);
    dx[i] = store(load(dy[i]) * ((1 + bend) + value * (1 - bend * bend) * du) / 2);
}

// y = x keep / (1 - rate): forward on x and backward on dy, (count, size). One thread four elements of a sample.
extern "C" __global__ void dropout(
    const scalar* x, const long long* samples, const long long* step, unsigned stream, unsigned k0, unsigned k1,
    long long least, float kept, scalar* y, long long count, long long size
) {
    Mask mask = {{samples, step, stream, k0, k1}, least, kept};
    long long counters = (size + 3) / 4, n = element() / counters, first = element() % counters * 4;
    if (n >= count) return;
    float values[4];
    for (int lane = 0; lane < 4; lane++) values[lane] = first + lane < size ? load(x[n * size + first + lane]) : 0;
    mask.drop<4>(n, first, 1, values);
    for (int lane = 0; lane < 4; lane++) {
        if (first + lane < size) y[n * size + first + lane] = store(values[lane] / kept);
    }
}

// Which sample and channel element i of (N, pixels, channels) belongs to.
__device__ inline long long sample_channel(long long i, int pixels, int channels) {
    return i / ((long long)pixels * channels) * channels + i % channels;
}

// y = x (1 + scale) + shift, one scale and shift per sample and channel. One thread an element.
extern "C" __global__ void modulate_forward(
    const scalar* x, const scalar* scale, const scalar* shift, scalar* y, int pixels, int channels, long long size
) {
    long long i = element(), nc = sample_channel(i, pixels, channels);
    if (i < size) y[i] = store(load(x[i]) * (1 + load(scale[nc])) + load(shift[nc]));
}

// y = x + v, one vector per sample. One thread an element.
extern "C" __global__ void add_vector(
    const scalar* x, const scalar* v, scalar* y, int pixels, int channels, long long size
) {
    long long i = element();
    if (i < size) y[i] = store(load(x[i]) + load(v[sample_channel(i, pixels, channels)]));
}

// Threads (channel, pixel), blocks (sample, channels): element (p, channel of thread x) of the block's sample, and
// whether there is such a channel.
struct Column {
    int channel, channels;
    size_t n, pixels;

    __device__ Column(int pixels, int channels)
        : channel(blockIdx.y * blockDim.x + threadIdx.x), channels(channels), n(blockIdx.x), pixels(pixels) {}
    __device__ bool there() const { return channel < channels; }
    __device__ size_t at(int p) const { return (n * pixels + p) * channels + channel; }
    __device__ size_t nc() const { return n * channels + channel; }
};

// dx = dy (1 + scale), dscale = sum dy x, dshift = sum dy over pixels.
extern "C" __global__ void modulate_backward(
    const scalar* dy, const scalar* x, const scalar* scale, scalar* dx, scalar* dscale, scalar* dshift, int pixels,
    int channels
) {
    Column column(pixels, channels);
    float *dy_sums = shared, *dy_x_sums = shared + blockDim.x * blockDim.y;  // (blockDim.y, blockDim.x) each
    auto gradient = [&](int p, int) { return column.there() ? load(dy[column.at(p)]) : 0; };
    auto product = [&](int p, int c) { return column.there() ? gradient(p, c) * load(x[column.at(p)]) : 0; };
    channel_sums(gradient, dy_sums, pixels, blockDim.x);
    channel_sums(product, dy_x_sums, pixels, blockDim.x);
    if (!column.there()) return;
    if (threadIdx.y == 0) {
        dshift[column.nc()] = store(dy_sums[threadIdx.x]);
        dscale[column.nc()] = store(dy_x_sums[threadIdx.x]);
    }
    float factor = 1 + load(scale[column.nc()]);
    for (int p = threadIdx.y; p < pixels; p += blockDim.y) dx[column.at(p)] = store(gradient(p, 0) * factor);
}

// dv = sum dy over pixels.
extern "C" __global__ void vector_gradient(const scalar* dy, scalar* dv, int pixels, int channels) {
    Column column(pixels, channels);
    auto gradient = [&](int p, int) { return column.there() ? load(dy[column.at(p)]) : 0; };
    channel_sums(gradient, shared, pixels, blockDim.x);
    if (column.there() && threadIdx.y == 0) dv[column.nc()] = store(shared[threadIdx.x]);
}
