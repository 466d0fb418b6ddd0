// The end of a training step over the flat buffers, formulas as in tinyddpm/training/optimiser.py: the gradient's norm,
// what depends on it and on the step, then Adam and the running average in one pass. All scalars stay on the device.
#include "common.cuh"

// What `step_factors` works out for `adam_ema` and for the host.
enum Factor { CLIP, RATE, ROOT_V, DECAY, REST, FINITE, LOSS, NORM };

// For each block, the sum of the squares of its part of the gradient.
extern "C" __global__ void sum_of_squares(const float* gradient, float* partial, long long size) {
    float sum = 0;
    for (long long i = element(); i < size; i += (long long)gridDim.x * blockDim.x) sum += gradient[i] * gradient[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// Works out the factors of step number *step (0-based). One block.
// `decay` is the running average's largest; its decay and the learning rate rise as `average` and `warmed_up` say.
extern "C" __global__ void step_factors(
    const float* partial, const float* loss, const long long* step, float* factors, int count, double learning_rate,
    double clip, double decay, double beta_1, double beta_2, int warmup
) {
    double sum = 0;
    for (int i = threadIdx.x; i < count; i += blockDim.x) sum += partial[i];
    double norm = sqrt(block_sum(sum, (double*)shared));
    if (threadIdx.x != 0) return;

    double k = (double)*step + 1;
    double rate = learning_rate * (warmup ? fmin(1.0, k / warmup) : 1.0);
    factors[CLIP] = clip > 0 && norm > clip ? clip / norm : 1;
    factors[RATE] = rate / (1 - pow(beta_1, k));
    factors[ROOT_V] = 1 / sqrt(1 - pow(beta_2, k));
    decay = fmin(decay, k / (9 + k));
    factors[DECAY] = decay;
    factors[REST] = 1 - decay;  // in float32 the difference would be off by 1e-4 of itself
    factors[FINITE] = isfinite(norm) && isfinite(*loss);
    factors[LOSS] = *loss;
    factors[NORM] = norm;
}

// m, v and weights by Adam, then ema; nothing at all where the step is not finite. One thread an element.
extern "C" __global__ void adam_ema(
    const float* gradient, const float* factors, float* weights, float* m, float* v, float* ema, double beta_1,
    double beta_2, float eps, long long size
) {
    long long i = element();
    if (i >= size || !factors[FINITE]) return;
    float g = gradient[i] * factors[CLIP];
    float m_i = (float)beta_1 * m[i] + (float)(1 - beta_1) * g;
    float v_i = (float)beta_2 * v[i] + (float)(1 - beta_2) * (g * g);
    float w = weights[i] - factors[RATE] * m_i / (sqrtf(v_i) * factors[ROOT_V] + eps);
    m[i] = m_i;
    v[i] = v_i;
    weights[i] = w;
    ema[i] = factors[DECAY] * ema[i] + factors[REST] * w;
}
