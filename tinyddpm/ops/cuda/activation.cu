// SiLU and dropout, one thread an element. Equations and derivatives: tinyddpm/ops/activation.py.
#include "common.cuh"

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

// y = x keep / (1 - rate): forward on x and backward on dy.
extern "C" __global__ void dropout(
    const scalar* x, const unsigned char* keep, scalar* y, float kept_share, long long size
) {
    long long i = element();
    if (i < size) y[i] = store(keep[i] ? load(x[i]) / kept_share : 0.0f);
}
