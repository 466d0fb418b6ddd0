// The end of a training step over flat buffers, with the formulas of tinyddpm/ops/optimisation.py: the gradient's norm,
// the factors of the step, Adam and the running average in one pass, and one pass for each further average. All scalars
// stay on the device.
#include "common.cuh"

// Indices into the array of factors.
enum Factor {
    FINITE, CLIP, M_KEPT, M_NEW, V_KEPT, V_NEW, RATE, ROOT_V, EMA_KEPT, EMA_NEW, LOSS, NORM
};

// Writes, for each block, the norm of its part of the gradient.
extern "C" __global__ void lengths(const float* gradient, float* partial, long long size) {
    float sum = 0;
    for (long long i = element(); i < size; i += (long long)gridDim.x * blockDim.x) sum += gradient[i] * gradient[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) partial[blockIdx.x] = sqrtf(sum);
}

// Writes the factors of step *step (0-based). One block. `decay` is the running average's largest decay. Differences
// 1 - decay are computed in double: in float32 their relative error would be 1e-4.
extern "C" __global__ void step_factors(
    const float* partial, const float* loss, const long long* step, const double* rate, float* factors, int count,
    double clip, double decay, double beta_1, double beta_2
) {
    double sum = 0;
    for (int i = threadIdx.x; i < count; i += blockDim.x) sum += (double)partial[i] * partial[i];
    double norm = sqrt(block_sum(sum, (double*)shared));
    if (threadIdx.x != 0) return;

    double k = (double)*step + 1;
    bool finite = isfinite(norm) && isfinite(*loss);
    decay = fmin(decay, k / (9 + k));
    factors[FINITE] = finite;
    factors[CLIP] = clip > 0 && norm > clip ? clip / norm : 1;
    factors[M_KEPT] = finite ? beta_1 : 1;
    factors[M_NEW] = finite ? 1 - beta_1 : 0;
    factors[V_KEPT] = finite ? beta_2 : 1;
    factors[V_NEW] = finite ? 1 - beta_2 : 0;
    factors[RATE] = finite ? *rate / (1 - pow(beta_1, k)) : 0;
    factors[ROOT_V] = sqrt(1 - pow(beta_2, k));
    factors[EMA_KEPT] = finite ? decay : 1;
    factors[EMA_NEW] = finite ? 1 - decay : 0;
    factors[LOSS] = *loss;
    factors[NORM] = norm;
}

// Updates m, v and weights by Adam, then ema; does nothing if the step is not finite. One thread per element.
extern "C" __global__ void adam_ema(
    const float* gradient, const float* factors, float* weights, float* ema, float* m, float* v, float eps,
    long long size
) {
    long long i = element();
    if (i >= size || !factors[FINITE]) return;
    float g = gradient[i] * factors[CLIP];
    float m_i = factors[M_KEPT] * m[i] + factors[M_NEW] * g;
    float v_i = factors[V_KEPT] * v[i] + factors[V_NEW] * (g * g);
    float w = weights[i] - factors[RATE] * m_i / (sqrtf(v_i) / factors[ROOT_V] + eps);
    m[i] = m_i;
    v[i] = v_i;
    weights[i] = w;
    ema[i] = factors[EMA_KEPT] * ema[i] + factors[EMA_NEW] * w;
}

// Updates a power-function average with the weights after step *step (0-based). One thread per element; the share of
// the step is computed once per block.
extern "C" __global__ void power_average(
    const float* weights, const float* factors, const long long* step, float* average, double exponent, long long size
) {
    if (threadIdx.x == 0) shared[0] = 1 - pow(1 - 1 / ((double)*step + 1), exponent + 1);
    __syncthreads();
    long long i = element();
    if (i < size && factors[FINITE]) average[i] += shared[0] * (weights[i] - average[i]);
}
