// Group norm, then a modulation where there is one, then SiLU where it is asked for: tinyddpm/ops/normalisation.py and
// norm_activation.py. Layer norm is the case of one pixel and one group.
//
// x is (N, pixels, channels). One block takes one sample and a chunk of whole groups: `width` channels side by side,
// threads (channel, pixel). What it has read once stays in a tile of shared memory, (pixels, width), where that fits.
//
//     x^ = (x - mean) r,  z = x^ A + B,  A = scale (1 + m_scale),  B = shift (1 + m_scale) + m_shift,  y = silu(z)
#include "common.cuh"

// A and B of one channel; `modulation` points to nothing where there is none.
struct Affine {
    float a, b;

    __device__ Affine(
        const float* scale, const float* shift, const float* m_scale, const float* m_shift, int c, size_t nc
    ) {
        float more = m_scale ? 1 + m_scale[nc] : 1;
        a = scale[c] * more;
        b = shift[c] * more + (m_shift ? m_shift[nc] : 0);
    }
};

// For each channel of the block, the sum of value(pixel, channel) over pixels, in the first row of sums,
// (blockDim.y, width); blockDim.y is a power of two.
template <class Value>
__device__ void channel_sums(Value value, float* sums, int pixels, int width) {
    for (int c = threadIdx.x; c < width; c += blockDim.x) {
        float sum = 0;
        for (int p = threadIdx.y; p < pixels; p += blockDim.y) sum += value(p, c);
        sums[threadIdx.y * width + c] = sum;
    }
    __syncthreads();
    for (int half = blockDim.y / 2; half > 0; half /= 2) {
        if (threadIdx.y < half) {
            for (int c = threadIdx.x; c < width; c += blockDim.x) {
                sums[threadIdx.y * width + c] += sums[(threadIdx.y + half) * width + c];
            }
        }
        __syncthreads();
    }
}

// For each group of the block, the mean of sums[channel] weight(channel) over `each` channels and all pixels.
template <class Weight>
__device__ void group_means(const float* sums, Weight weight, float* means, int chunk, int each, int pixels) {
    for (int g = threadIdx.y * blockDim.x + threadIdx.x; g < chunk; g += blockDim.x * blockDim.y) {
        float sum = 0;
        for (int c = g * each; c < (g + 1) * each; c++) sum += sums[c] * weight(c);
        means[g] = sum / ((float)each * pixels);
    }
    __syncthreads();
}

// Returns y, and for the backward the means and r of each sample and group, (N, groups).
extern "C" __global__ void group_norm_forward(
    const scalar* x, const float* scale, const float* shift, const float* m_scale, const float* m_shift,
    scalar* y, float* mean, float* r, int pixels, int channels, int groups, int chunk, float eps, int silu, int tiled
) {
    int each = channels / groups, width = chunk * each, chunks = groups / chunk;
    size_t n = blockIdx.x / chunks;
    int first_group = blockIdx.x % chunks * chunk, first = first_group * each;
    size_t start = n * pixels * channels + first;

    float* sums = shared;                           // (blockDim.y, width)
    float* group_mean = sums + blockDim.y * width;  // (chunk)
    float* group_r = group_mean + chunk;            // (chunk)
    scalar* tile = (scalar*)(group_r + chunk);      // (pixels, width)
    const scalar* from = tiled ? tile : x + start;
    size_t row = tiled ? width : channels;

    auto one = [](int) { return 1.0f; };
    auto read = [&](int p, int c) {
        scalar value = x[start + (size_t)p * channels + c];
        if (tiled) tile[p * width + c] = value;
        return load(value);
    };
    channel_sums(read, sums, pixels, width);
    group_means(sums, one, group_mean, chunk, each, pixels);

    auto square = [&](int p, int c) {
        float centred = load(from[p * row + c]) - group_mean[c / each];
        return centred * centred;
    };
    channel_sums(square, sums, pixels, width);
    group_means(sums, one, group_r, chunk, each, pixels);

    for (int c = threadIdx.x; c < width; c += blockDim.x) {
        int g = c / each;
        float mu = group_mean[g], r_g = 1 / sqrtf(group_r[g] + eps);
        if (c % each == 0 && threadIdx.y == 0) {
            mean[n * groups + first_group + g] = mu;
            r[n * groups + first_group + g] = r_g;
        }
        Affine affine(scale, shift, m_scale, m_shift, first + c, n * channels + first + c);
        for (int p = threadIdx.y; p < pixels; p += blockDim.y) {
            float z = (load(from[p * row + c]) - mu) * r_g * affine.a + affine.b;
            y[start + (size_t)p * channels + c] = store(silu ? z * sigmoid(z) : z);
        }
    }
}

// Returns dx and, for each sample and channel, the sums over pixels of dz and of dz x^, (N, channels): the gradients of
// scale, shift and modulation are made of them. With g = dz A, dx = r (g - mean(g) - x^ mean(g x^)), and both means need
// only those sums.
extern "C" __global__ void group_norm_backward(
    const scalar* x, const scalar* dy, const float* scale, const float* shift, const float* m_scale,
    const float* m_shift, const float* mean, const float* r, scalar* dx, float* sum_dz, float* sum_dz_x,
    int pixels, int channels, int groups, int chunk, int silu, int tiled
) {
    int each = channels / groups, width = chunk * each, chunks = groups / chunk;
    size_t n = blockIdx.x / chunks;
    int first_group = blockIdx.x % chunks * chunk, first = first_group * each;
    size_t start = n * pixels * channels + first, group = n * groups + first_group;

    float* dz_sums = shared;                        // (blockDim.y, width)
    float* dz_x_sums = dz_sums + blockDim.y * width;  // (blockDim.y, width)
    float* mean_g = dz_x_sums + blockDim.y * width;   // (chunk)
    float* mean_g_x = mean_g + chunk;                 // (chunk)
    scalar* tile = (scalar*)(mean_g_x + chunk);       // (2, pixels, width): x, then dy
    const scalar* x_from = tiled ? tile : x + start;
    const scalar* dy_from = tiled ? tile + pixels * width : dy + start;
    size_t row = tiled ? width : channels;

    auto affine = [&](int c) {
        return Affine(scale, shift, m_scale, m_shift, first + c, n * channels + first + c);
    };
    auto x_hat = [&](int p, int c) {
        return (load(x_from[p * row + c]) - mean[group + c / each]) * r[group + c / each];
    };
    auto dz = [&](int p, int c) {
        float d = load(dy_from[p * row + c]);
        if (!silu) return d;
        Affine to_z = affine(c);
        float z = x_hat(p, c) * to_z.a + to_z.b, sigma = sigmoid(z);
        return d * sigma * (1 + z * (1 - sigma));
    };
    auto weight = [&](int c) { return affine(c).a; };

    if (tiled) {  // each thread reads again only what it has written itself
        for (int c = threadIdx.x; c < width; c += blockDim.x) {
            for (int p = threadIdx.y; p < pixels; p += blockDim.y) {
                tile[p * width + c] = x[start + (size_t)p * channels + c];
                tile[(pixels + p) * width + c] = dy[start + (size_t)p * channels + c];
            }
        }
    }
    channel_sums(dz, dz_sums, pixels, width);
    channel_sums([&](int p, int c) { return dz(p, c) * x_hat(p, c); }, dz_x_sums, pixels, width);
    group_means(dz_sums, weight, mean_g, chunk, each, pixels);
    group_means(dz_x_sums, weight, mean_g_x, chunk, each, pixels);

    for (int c = threadIdx.x; c < width; c += blockDim.x) {
        int g = c / each;
        if (threadIdx.y == 0) {
            sum_dz[n * channels + first + c] = dz_sums[c];
            sum_dz_x[n * channels + first + c] = dz_x_sums[c];
        }
        float a = affine(c).a, r_g = r[group + g];
        for (int p = threadIdx.y; p < pixels; p += blockDim.y) {
            float gradient = r_g * (dz(p, c) * a - mean_g[g] - x_hat(p, c) * mean_g_x[g]);
            dx[start + (size_t)p * channels + c] = store(gradient);
        }
    }
}

// The gradients that are sums of sum_dz and sum_dz_x over samples: dshift = sum (1 + m_scale) sum_dz and dscale likewise.
// The modulation's are one to each sample and channel: dm_shift = sum_dz, dm_scale = sum dz (x^ scale + shift).
// Threads (channel, sample); each block takes blockDim.x channels.
extern "C" __global__ void group_norm_parameters(
    const float* sum_dz, const float* sum_dz_x, const float* scale, const float* shift, const float* m_scale,
    float* dscale, float* dshift, float* dm_scale, int samples, int channels
) {
    int c = blockIdx.x * blockDim.x + threadIdx.x, width = blockDim.x;
    float* scale_sums = shared;                          // (blockDim.y, width)
    float* shift_sums = shared + blockDim.y * width;     // (blockDim.y, width)
    auto sample_sums = [&](const float* values, float* sums) {
        auto value = [&](int n, int) {
            size_t nc = (size_t)n * channels + c;
            return c < channels ? values[nc] * (m_scale ? 1 + m_scale[nc] : 1) : 0;
        };
        channel_sums(value, sums, samples, width);
    };
    sample_sums(sum_dz_x, scale_sums);
    sample_sums(sum_dz, shift_sums);
    if (c >= channels) return;
    if (threadIdx.y == 0) {
        dscale[c] = scale_sums[threadIdx.x];
        dshift[c] = shift_sums[threadIdx.x];
    }
    if (!m_scale) return;
    for (int n = threadIdx.y; n < samples; n += blockDim.y) {
        size_t nc = (size_t)n * channels + c;
        dm_scale[nc] = scale[c] * sum_dz_x[nc] + shift[c] * sum_dz[nc];
    }
}
