// Softmax of rows, between the two products of attention (tinyddpm/ops/attention.py). One warp per row, block (32,
// rows).
#include "common.cuh"

__device__ inline float warp_sum(float value) {
    for (int lane = 16; lane > 0; lane /= 2) value += __shfl_xor_sync(0xffffffff, value, lane);
    return value;
}

__device__ inline float warp_max(float value) {
    for (int lane = 16; lane > 0; lane /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffff, value, lane));
    return value;
}

// p = softmax(factor scores) over the last axis of (rows, length); factor > 0. `there` is a mask (rows / each, length),
// or null: where it is false, p is 0 whatever the score. `each` consecutive rows share a row of the mask.
extern "C" __global__ void softmax_forward(
    const scalar* scores, scalar* p, float factor, int rows, int length, const bool* there, int each
) {
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    const scalar* from = scores + (size_t)row * length;
    scalar* to = p + (size_t)row * length;
    const bool* seen = there ? there + (size_t)(row / each) * length : nullptr;

    float largest = -3.4e38f, total = 0;
    for (int i = threadIdx.x; i < length; i += 32) {
        if (!seen || seen[i]) largest = fmaxf(largest, load(from[i]));
    }
    largest = warp_max(largest);
    for (int i = threadIdx.x; i < length; i += 32) {
        if (!seen || seen[i]) total += exponential(factor * (load(from[i]) - largest));
    }
    float share = 1 / warp_sum(total);
    for (int i = threadIdx.x; i < length; i += 32) {
        to[i] = store(!seen || seen[i] ? exponential(factor * (load(from[i]) - largest)) * share : 0.0f);
    }
}

// dscores = factor p (dp - sum_j dp_j p_j)
extern "C" __global__ void softmax_backward(
    const scalar* p, const scalar* dp, scalar* dscores, float factor, int rows, int length
) {
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    if (row >= rows) return;
    size_t start = (size_t)row * length;

    float along = 0;
    for (int i = threadIdx.x; i < length; i += 32) along += load(dp[start + i]) * load(p[start + i]);
    along = warp_sum(along);
    for (int i = threadIdx.x; i < length; i += 32) {
        dscores[start + i] = store(factor * load(p[start + i]) * (load(dp[start + i]) - along));
    }
}
