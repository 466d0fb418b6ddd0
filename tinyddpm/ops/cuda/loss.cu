// The mean squared errors of samples and their gradient (tinyddpm/ops/loss.py).
#include "common.cuh"

// difference = prediction - target, and for each sample the mean of its squares. One block per sample of `size`
// elements.
extern "C" __global__ void squared_error(
    const scalar* prediction, const scalar* target, scalar* difference, scalar* losses, long long size
) {
    float sum = 0;
    for (long long k = threadIdx.x; k < size; k += blockDim.x) {
        long long i = blockIdx.x * size + k;
        float d = load(prediction[i]) - load(target[i]);
        difference[i] = store(d);
        sum += d * d;
    }
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) losses[blockIdx.x] = store(sum / size);
}

// dprediction = factor difference, factor = 2 dloss / size of a sample.
extern "C" __global__ void error_gradient(const scalar* difference, scalar* dprediction, float factor, long long size) {
    map_elements(dprediction, size, [&](float difference) { return factor * difference; }, difference);
}
