// The mean-squared error and its gradient: tinyddpm/ops/loss.py.
#include "common.cuh"

// difference = prediction - target, and for each block the sum of its squares.
extern "C" __global__ void squared_error(
    const scalar* prediction, const scalar* target, scalar* difference, float* partial, long long size
) {
    float sum = 0;
    for (long long i = element(); i < size; i += (long long)gridDim.x * blockDim.x) {
        float d = load(prediction[i]) - load(target[i]);
        difference[i] = store(d);
        sum += d * d;
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// mean = the sum of `partial` / size. One block.
extern "C" __global__ void mean_of_partial(const float* partial, scalar* mean, int count, long long size) {
    float sum = 0;
    for (int i = threadIdx.x; i < count; i += blockDim.x) sum += partial[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) *mean = store(sum / size);
}

// dprediction = factor difference, factor = 2 dloss / size.
extern "C" __global__ void error_gradient(const scalar* difference, scalar* dprediction, float factor, long long size) {
    long long i = element();
    if (i < size) dprediction[i] = store(factor * load(difference[i]));
}
