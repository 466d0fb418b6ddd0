// SiLU, GELU and dropout (tinyddpm/ops/activation.py), and modulation or an added vector per sample
// (tinyddpm/ops/normalisation.py). Equations and derivatives are there. Sums of gradients.
#include "common.cuh"
#include "philox.cuh"

// Elementwise kernels: one thread per pack.

extern "C" __global__ void silu_forward(const scalar* x, scalar* y, long long size) {
    map_elements(y, size, [](float x) { return x * sigmoid(x); }, x);
}

// dx = dy sigma (1 + x (1 - sigma))
extern "C" __global__ void silu_backward(const scalar* x, const scalar* dy, scalar* dx, long long size) {
    auto derivative = [](float x, float dy) {
        float sigma = sigmoid(x);
        return dy * sigma * (1 + x * (1 - sigma));
    };
    map_elements(dx, size, derivative, x, dy);
}

// GELU's u = sqrt(2 / pi) (x + cubic x^3), whose derivative is sqrt(2 / pi) (1 + 3 cubic x^2).
const float GELU_SCALE = 0.7978845608028654f, GELU_CUBIC = 0.044715f;

extern "C" __global__ void gelu_forward(const scalar* x, scalar* y, long long size) {
    auto gelu = [](float x) {
        float u = GELU_SCALE * (x + GELU_CUBIC * x * x * x);
        return x * (1 + tanhf(u)) / 2;
    };
    map_elements(y, size, gelu, x);
}

// dx = dy ((1 + tanh u) + x (1 - tanh^2 u) u') / 2
extern "C" __global__ void gelu_backward(const scalar* x, const scalar* dy, scalar* dx, long long size) {
    auto derivative = [](float x, float dy) {
        float square = x * x, bend = tanhf(GELU_SCALE * (x + GELU_CUBIC * square * x));
        float du = GELU_SCALE * (1 + 3 * GELU_CUBIC * square);
        return dy * ((1 + bend) + x * (1 - bend * bend) * du) / 2;
    };
    map_elements(dx, size, derivative, x, dy);
}

// y = a + b, for gradients that reach an array on two ways.
extern "C" __global__ void sum_of_two(const scalar* a, const scalar* b, scalar* y, long long size) {
    map_elements(y, size, [](float a, float b) { return a + b; }, a, b);
}

// y = x keep / (1 - rate): the forward on x and the backward on dy, (count, size). One thread per four elements.
extern "C" __global__ void dropout(
    const scalar* x, const long long* samples, const long long* step, unsigned stream, unsigned k0, unsigned k1,
    long long least, float kept, scalar* y, long long count, long long size
) {
    Mask mask = {{samples, step, stream, k0, k1}, least, kept};
    long long counters = (size + 3) / 4, n = element() / counters, first = element() % counters * 4;
    if (n >= count) return;
    float values[4];
    for (int lane = 0; lane < 4; lane++) values[lane] = first + lane < size ? load(x[n * size + first + lane]) : 0;
    mask.drop<4>(mask.stream.of(n), first, 1, values);
    for (int lane = 0; lane < 4; lane++) {
        if (first + lane < size) y[n * size + first + lane] = store(values[lane] / kept);
    }
}

// y = map(x) for all pixels of all samples, as rows of channels: map(n, c, values) changes a strip of sample n in
// place. Threads are (strip, row).
template <int lanes, class Map>
__device__ void map_rows(const scalar* x, scalar* y, int pixels, int channels, int rows, Map map) {
    auto read = [&](unsigned row, int c) {
        float values[lanes];
        load_pack<lanes>(x + (size_t)row * channels + c, values);
        map(row / (unsigned)pixels, c, values);
        return packed<lanes>(values);
    };
    auto write = [&](unsigned row, int c, Pack<lanes> pack) { *(Pack<lanes>*)(y + (size_t)row * channels + c) = pack; };
    by_rows<lanes>(rows, channels, read, write);
}

template <int lanes>
__device__ void modulate(
    const scalar* x, const scalar* scale, const scalar* shift, scalar* y, int pixels, int channels, int rows
) {
    map_rows<lanes>(x, y, pixels, channels, rows, [&](size_t n, int c, float* values) {
        float factors[lanes], terms[lanes];
        load_pack<lanes>(scale + n * channels + c, factors);
        load_pack<lanes>(shift + n * channels + c, terms);
        for (int lane = 0; lane < lanes; lane++) values[lane] = values[lane] * (1 + factors[lane]) + terms[lane];
    });
}

// y = x (1 + scale) + shift, with one scale and shift per sample and channel.
extern "C" __global__ void modulate_forward(
    const scalar* x, const scalar* scale, const scalar* shift, scalar* y, int pixels, int channels, int rows, int lanes
) {
    if (lanes == PACK && in_packs<PACK>(x, scale, shift, y)) {
        modulate<PACK>(x, scale, shift, y, pixels, channels, rows);
    } else {
        modulate<1>(x, scale, shift, y, pixels, channels, rows);
    }
}

template <int lanes>
__device__ void add(const scalar* x, const scalar* v, scalar* y, int pixels, int channels, int rows) {
    map_rows<lanes>(x, y, pixels, channels, rows, [&](size_t n, int c, float* values) {
        float terms[lanes];
        load_pack<lanes>(v + n * channels + c, terms);
        for (int lane = 0; lane < lanes; lane++) values[lane] += terms[lane];
    });
}

// y = x + v, with one vector per sample.
extern "C" __global__ void add_vector(
    const scalar* x, const scalar* v, scalar* y, int pixels, int channels, int rows, int lanes
) {
    if (lanes == PACK && in_packs<PACK>(x, v, y)) add<PACK>(x, v, y, pixels, channels, rows);
    else add<1>(x, v, y, pixels, channels, rows);
}

// Computes, for each strip of the block, `count` sums over pixels of the numbers that value(i, found) writes for
// element i, then calls done(nc, first, sums): nc is the index of sample and channel, and `first` that of its first
// pixel's element. Blocks are (sample, `width` channels), threads (strip, pixel).
template <int lanes, int count, class Value, class Done>
__device__ void sum_pixels(int pixels, int channels, int width, Value value, Done done) {
    size_t n = blockIdx.x;
    for (int strip = lanes * threadIdx.x; strip < width; strip += lanes * blockDim.x) {
        int c = blockIdx.y * width + strip;
        bool there = c < channels;
        size_t first = n * pixels * channels + c;
        auto of_pixel = [&](int p, float* found) { value(first + (size_t)p * channels, found); };
        channel_sums<count>(of_pixel, shared, there ? pixels : 0);
        if (there) done(n * channels + c, first, shared + threadIdx.x * count);
        __syncthreads();
    }
}

// dx = dy (1 + scale), dscale = sum dy x, dshift = sum dy over pixels.
template <int lanes>
__device__ void modulate_gradients(
    const scalar* dy, const scalar* x, const scalar* scale, scalar* dx, scalar* dscale, scalar* dshift, int pixels,
    int channels, int width
) {
    auto products = [&](size_t i, float* found) {
        float values[lanes];
        load_pack<lanes>(dy + i, found);
        load_pack<lanes>(x + i, values);
        for (int lane = 0; lane < lanes; lane++) found[lanes + lane] = found[lane] * values[lane];
    };
    auto done = [&](size_t nc, size_t first, const float* sums) {
        if (threadIdx.y == 0) {
            store_pack<lanes>(dshift + nc, sums);
            store_pack<lanes>(dscale + nc, sums + lanes);
        }
        float factors[lanes], values[lanes];
        load_pack<lanes>(scale + nc, factors);
        for (int p = threadIdx.y; p < pixels; p += blockDim.y) {
            load_pack<lanes>(dy + first + (size_t)p * channels, values);
            for (int lane = 0; lane < lanes; lane++) values[lane] *= 1 + factors[lane];
            store_pack<lanes>(dx + first + (size_t)p * channels, values);
        }
    };
    sum_pixels<lanes, 2 * lanes>(pixels, channels, width, products, done);
}

extern "C" __global__ void modulate_backward(
    const scalar* dy, const scalar* x, const scalar* scale, scalar* dx, scalar* dscale, scalar* dshift, int pixels,
    int channels, int lanes
) {
    int width = lanes * blockDim.x;
    if (lanes == PACK && in_packs<PACK>(dy, x, scale, dx, dscale, dshift)) {
        modulate_gradients<PACK>(dy, x, scale, dx, dscale, dshift, pixels, channels, width);
    } else {
        modulate_gradients<1>(dy, x, scale, dx, dscale, dshift, pixels, channels, width);
    }
}

// dv = sum dy over pixels.
template <int lanes>
__device__ void vector_sums(const scalar* dy, scalar* dv, int pixels, int channels, int width) {
    auto gradient = [&](size_t i, float* found) { load_pack<lanes>(dy + i, found); };
    auto done = [&](size_t nc, size_t, const float* sums) {
        if (threadIdx.y == 0) store_pack<lanes>(dv + nc, sums);
    };
    sum_pixels<lanes, lanes>(pixels, channels, width, gradient, done);
}

extern "C" __global__ void vector_gradient(const scalar* dy, scalar* dv, int pixels, int channels, int lanes) {
    int width = lanes * blockDim.x;
    if (lanes == PACK && in_packs<PACK>(dy, dv)) vector_sums<PACK>(dy, dv, pixels, channels, width);
    else vector_sums<1>(dy, dv, pixels, channels, width);
}
